package config

import (
	"errors"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Certificate is a certificate with its private key: from files (cert_file and
// key_file), or from an authority by ACME (acme). Files are read again when they
// change; what cannot be used leaves the last good one in use.
type Certificate struct {
	// PEM file with the certificate and the intermediate ones after it,
	// relative to the config.
	CertFile string `yaml:"cert_file"`
	// PEM file with its private key, not encrypted.
	KeyFile string `yaml:"key_file"`
	// File with an OCSP response, DER or PEM, that is shown to clients (stapled)
	// as long as it is good: have a job fetch it. Needs the issuer's certificate
	// in cert_file.
	OCSPFile string `yaml:"ocsp_file"`
	// Let an authority such as Let's Encrypt issue it and renew it in time.
	ACME *ACME `yaml:"acme"`
}

// ACME is a certificate that an authority issues (RFC 8555). It is ordered and
// renewed in the background, after two thirds of its life, and kept encrypted
// in node.data_dir. Nodes with the same node.store.redis share it: one of them
// orders it, and each answers the authority. Until there is one, clients get the listener's other
// certificates; while the authority cannot be reached, the last one is used.
type ACME struct {
	// DNS names it is for, all in one certificate. The authority must reach this
	// node under each of them, on port 443 or 80.
	Hosts []string `yaml:"hosts" required:"true"`
	// You agree to the authority's terms of service; it must be true.
	AcceptTerms bool `yaml:"accept_terms" default:"false"`
	// Where the authority may write to. Optional.
	Email string `yaml:"email"`
	// The authority's directory. To try things out without running into Let's
	// Encrypt's limits: https://acme-staging-v02.api.letsencrypt.org/directory.
	Directory string `yaml:"directory" default:"https://acme-v02.api.letsencrypt.org/directory"`
	// PEM file with the authorities that the directory's own certificate is
	// checked against, for a private authority; relative to the config. Default:
	// the system's.
	CAFile string `yaml:"ca_file"`
	// How to prove that the hosts are ours, the preferred way first. tls-alpn-01
	// needs the node to be reachable on port 443 without TLS ending before it,
	// http-01 on port 80. Both are answered ahead of routes, plugins and
	// redirects.
	Challenges []string `yaml:"challenges" default:"tls-alpn-01,http-01"`
	// The kind of private key. Every certificate gets a new one.
	KeyType string `yaml:"key_type" enum:"ecdsa_p256,rsa_2048" default:"ecdsa_p256"`
	// Ties the account to one at the authority, for those that ask for it.
	ExternalAccount *ExternalAccount `yaml:"external_account"`
}

// ExternalAccount is what an authority hands out to its customers (RFC 8555,
// 7.3.4).
type ExternalAccount struct {
	// The key's identifier.
	KeyID string `yaml:"key_id" required:"true"`
	// The key, in base64url as the authority shows it.
	HMACKey unit.Secret `yaml:"hmac_key" required:"true"`
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
	// The protocols offered (ALPN), the most wanted first. A client that offers
	// others only is refused; one that offers none speaks HTTP/1.1.
	ALPN []string `yaml:"alpn" enum:"h2,http/1.1" default:"h2,http/1.1"`
	// Refuse clients that ask for a name no certificate is for, or for none at
	// all, instead of showing them the first certificate.
	StrictNames bool `yaml:"strict_names" default:"false"`
	// Ask clients for a certificate. Absent: they are not asked.
	ClientCertificates *ClientCertificates `yaml:"client_certificates"`
	// How long a client may take for the handshake.
	HandshakeTimeout unit.Duration `yaml:"handshake_timeout" default:"10s" min:"100ms"`
	// Limit the handshakes of one client address (IPv6: /64). Absent: no limit.
	// Do not limit a proxy in front of you that opens a connection for every request.
	HandshakesPerClient *HandshakeRate `yaml:"handshakes_per_client"`
	// Tickets let clients resume a session at a fraction of the cost.
	SessionTickets SessionTickets `yaml:"session_tickets"`
}

// HTTPSRedirect is where requests over plain HTTP are sent: host, path and query
// stay as requested. Its short form is true.
type HTTPSRedirect struct {
	// The port that clients reach https by.
	Port int `yaml:"port" default:"443" min:"1" max:"65535"`
	// 308 and 307 keep the method, 301 and 302 may turn POST into GET; browsers
	// remember 301 and 308.
	Status int `yaml:"status" enum:"301,302,307,308" default:"308"`
}

// UnmarshalText reads the short form.
func (*HTTPSRedirect) UnmarshalText(text []byte) error {
	if string(text) != "true" {
		return errors.New("must be true, or a map with port and status; remove the key to switch it off")
	}
	return nil
}

// HandshakeRate is a limit of full handshakes, which cost many times what a
// request does. A resumed one counts half.
type HandshakeRate struct {
	// Full handshakes, at once and in every per.
	Limit int64 `yaml:"limit" default:"100" min:"1" max:"1000000"`
	// The time in which the limit fills up again.
	Per unit.Duration `yaml:"per" default:"1s" min:"100ms" max:"24h"`
}

// SessionTickets are kept by clients and hold a session, encrypted by keys that
// only this node knows; or all nodes with the same node.store.redis, if they have
// the same node.secret_key. They are good for one listener and for as long as its
// rules about client certificates stay as they are.
type SessionTickets struct {
	// Hand out and honour tickets.
	Enabled bool `yaml:"enabled" default:"true"`
	// How often the key is replaced. The two before it are still honoured, so
	// that a ticket is good for two to three times this.
	Rotate unit.Duration `yaml:"rotate" default:"12h" min:"1m" max:"56h"`
}

// ClientCertificates says what is asked of clients. Upstreams get a verified
// certificate in the header Client-Cert (RFC 9440); what clients themselves
// send there is always removed.
type ClientCertificates struct {
	// require refuses clients without a certificate, request lets them in. A
	// certificate that does not verify is refused in any case.
	Mode string `yaml:"mode" enum:"request,require" default:"require"`
	// PEM file with the authorities that issue them, relative to the config; it
	// is read again when it changes, and then holds for open connections too.
	CAFile string `yaml:"ca_file" required:"true"`
}

// UpstreamTLS is how endpoints are spoken to over TLS. The Host header remains
// the client's; rewrite.host of a route sets another one, as many hosted
// services want.
type UpstreamTLS struct {
	// The name asked for (SNI) and verified. Default: the host of dns.name or of
	// the endpoint's address; an IP address must be in the certificate as such.
	ServerName string `yaml:"server_name"`
	// PEM file with the authorities to trust instead of the system's, relative
	// to the config. It is read again when it changes: new connections follow it.
	CAFile string `yaml:"ca_file"`
	// Do not verify who answers: anybody on the way can then read and change
	// everything, unless pins say whose key it must be.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
	// PEM file with the certificate shown to endpoints that ask for one, and the
	// intermediate ones after it. It is read again when it changes.
	CertFile string `yaml:"cert_file"`
	// PEM file with its private key, not encrypted.
	KeyFile string `yaml:"key_file"`
	// Hashes of public keys, "sha256/BASE64" as in RFC 7469. One of them must be
	// in the verified chain; with insecure_skip_verify it must be the endpoint's
	// own. Give two, or replacing a key is an outage.
	Pins []string `yaml:"pins"`
	// The oldest version spoken.
	MinVersion string `yaml:"min_version" enum:"1.2,1.3" default:"1.2"`
}
