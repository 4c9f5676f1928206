package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Certificate is a certificate with its private key, from files. They are read
// again when they change; what cannot be used leaves the last good one in use.
type Certificate struct {
	// PEM file with the certificate and the intermediate ones after it,
	// relative to the config.
	CertFile string `yaml:"cert_file" required:"true"`
	// PEM file with its private key, not encrypted.
	KeyFile string `yaml:"key_file" required:"true"`
}

// ListenerTLS makes a listener speak TLS 1.2 and 1.3, with forward secrecy and
// authenticated encryption only.
type ListenerTLS struct {
	// Names under certificates. The name that a client asks for (SNI) chooses:
	// a certificate for exactly that name, else one for *.REST, else the first
	// of the list.
	Certificates []string `yaml:"certificates"`
	// The oldest version spoken.
	MinVersion string `yaml:"min_version" enum:"1.2,1.3" default:"1.2"`
	// Ask clients for a certificate. Absent: they are not asked.
	ClientCertificates *ClientCertificates `yaml:"client_certificates"`
	// How long a client may take for the handshake.
	HandshakeTimeout unit.Duration `yaml:"handshake_timeout" default:"10s" min:"100ms"`
}

// ClientCertificates says what is asked of clients. Upstreams get a verified
// certificate in the header Client-Cert (RFC 9440); what clients themselves
// send there is always removed.
type ClientCertificates struct {
	// require refuses clients without a certificate, request lets them in. A
	// certificate that does not verify is refused in any case.
	Mode string `yaml:"mode" enum:"request,require" default:"require"`
	// PEM file with the authorities that issue them, relative to the config; it
	// is read again when it changes.
	CAFile string `yaml:"ca_file" required:"true"`
}
