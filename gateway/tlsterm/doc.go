// Package tlsterm ends TLS for a listener: it holds certificates that come from
// files and follow them, chooses one by the name that a client asks for, makes
// the handshake within a time limit and says why one failed. What is spoken
// inside is not its business.
//
// A certificate, or a file of authorities, that cannot be used is never used:
// the last good one stays; where there has been none yet, handshakes that would
// need it are refused until the file is mended.
package tlsterm
