package tlsterm_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// withOCSP is a certificate whose OCSP response is in the file NAME.ocsp.
func (w *workbench) withOCSP(name string) *tlsterm.Certificate {
	return tlsterm.NewCertificate(tlsterm.CertificateSettings{
		Name: name, CertFile: w.path(name + ".crt"), KeyFile: w.path(name + ".key"), OCSPFile: w.path(name + ".ocsp"),
		Changes: &w.changes, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

func TestOCSPResponsesAreChecked(t *testing.T) {
	w := newBench(t)
	now := time.Now()
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	mine := w.ca.Issue(t, tlstest.Request{Names: []string{"a.example"}, Chain: true})
	bare := tlstest.Pair{Cert: mine.Cert[:bytes.Index(mine.Cert[1:], []byte("-----BEGIN"))+1], Key: mine.Key}
	other := w.ca.Issue(t, tlstest.Request{Names: []string{"a.example"}})
	signer, impostor := w.ca.Issue(t, tlstest.Request{OCSP: true}), w.ca.Issue(t, tlstest.Request{})
	oldSigner := w.ca.Issue(t, tlstest.Request{OCSP: true, From: hour(-3), To: hour(-2)})
	stranger := tlstest.NewAuthority(t)
	strangers := stranger.Issue(t, tlstest.Request{OCSP: true})
	good := tlstest.Answer{Status: ocsp.Good, From: hour(-1), To: hour(1)}
	by := func(p tlstest.Pair) tlstest.Answer { a := good; a.By = &p; return a }
	response := w.ca.OCSP(t, mine, good)
	damaged := bytes.Clone(response)
	damaged[len(damaged)-5] ^= 1
	for name, tc := range map[string]struct {
		pair tlstest.Pair
		file []byte
		why  string // empty: shown
	}{
		"good":                        {mine, response, ""},
		"good, in PEM":                {mine, pem.EncodeToMemory(&pem.Block{Type: "OCSP RESPONSE", Bytes: response}), ""},
		"by whom the issuer appoints": {mine, w.ca.OCSP(t, mine, by(signer)), ""},
		"by another of its clients":   {mine, w.ca.OCSP(t, mine, by(impostor)), "not for signing OCSP responses"},
		"by whose time is over":       {mine, w.ca.OCSP(t, mine, by(oldSigner)), "not for signing OCSP responses"},
		"by a stranger's":             {mine, w.ca.OCSP(t, mine, by(strangers)), "is no good: "},
		"by a stranger":               {mine, stranger.OCSP(t, mine, good), "is no good: "},
		"about another certificate":   {mine, w.ca.OCSP(t, other, good), "is no good: "},
		"damaged":                     {mine, damaged, "is no good: "},
		"no response":                 {mine, []byte("nonsense"), "is no good: "},
		"the responder's own error":   {mine, ocsp.TryLaterErrorResponse, "is no good: "},
		"revoked":                     {mine, w.ca.OCSP(t, mine, tlstest.Answer{Status: ocsp.Revoked, From: hour(-1), To: hour(1)}), "was revoked at "},
		"unknown":                     {mine, w.ca.OCSP(t, mine, tlstest.Answer{Status: ocsp.Unknown, From: hour(-1), To: hour(1)}), "does not know the certificate"},
		"too old":                     {mine, w.ca.OCSP(t, mine, tlstest.Answer{From: hour(-2), To: hour(-1)}), "was valid until"},
		"almost too old":              {mine, w.ca.OCSP(t, mine, tlstest.Answer{From: hour(-2), To: now.Add(time.Minute)}), "was valid until"},
		"from the future":             {mine, w.ca.OCSP(t, mine, tlstest.Answer{From: hour(1), To: hour(2)}), "is not valid before"},
		"without an end":              {mine, w.ca.OCSP(t, mine, tlstest.Answer{From: hour(-1)}), "how long it is valid"},
		"no issuer in the chain":      {bare, response, "lacks the issuer's certificate"},
		"missing":                     {mine, nil, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &workbench{t: t, dir: t.TempDir(), ca: w.ca}
			w.write("x", tc.pair)
			if tc.file != nil {
				tlstest.Write(t, w.path("x.ocsp"), tc.file)
			}
			c := w.withOCSP("x")
			if err := c.Load(); err != nil {
				t.Fatalf("the certificate must be served all the same: %v", err)
			}
			s := c.Stats()
			if tc.why != "" && (!strings.Contains(w.log.String(), tc.why) || !strings.Contains(s.Fault, tc.why) || !s.OCSPUntil.IsZero() || s.Failed != 1) ||
				tc.why == "" && (w.log.String() != "" || s.Fault != "" || s.OCSPUntil.IsZero()) || !s.OCSP {
				t.Errorf("%+v, log %s", s, w.log.String())
			}
			for _, version := range both {
				o := meet(t, w.terminator(nil, c), &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool(), MaxVersion: version})
				if o.clientErr != nil || (len(o.state.OCSPResponse) > 0) != (tc.why == "") {
					t.Errorf("%s: %v, a response of %d bytes", tls.VersionName(version), o.clientErr, len(o.state.OCSPResponse))
				}
			}
		})
	}
}

// Time is virtual and begins in the year 2000, the files are real.
func TestFollowsOCSPResponses(t *testing.T) {
	w := newBench(t)
	begin := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	issue := func() tlstest.Pair {
		return w.ca.Issue(t, tlstest.Request{Names: []string{"a.example"}, Chain: true, From: begin.Add(-time.Hour)})
	}
	answer := func(p tlstest.Pair, status, hours int) []byte {
		return w.ca.OCSP(t, p, tlstest.Answer{Status: status, From: begin.Add(-time.Minute), To: begin.Add(time.Duration(hours) * time.Hour)})
	}
	first, second := issue(), issue()
	w.write("x", first)
	synctest.Test(t, func(t *testing.T) {
		c := w.withOCSP("x")
		if err := errors.Join(c.Load(), c.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		expect := func(after time.Duration, want []byte) {
			t.Helper()
			time.Sleep(after + 3*filewatch.Interval)
			synctest.Wait()
			if got := c.Current().OCSPStaple; !bytes.Equal(got, want) {
				t.Errorf("%d bytes, want %d\n%s", len(got), len(want), w.log.String())
			}
			if until := c.Stats().OCSPUntil; until.IsZero() != (want == nil) {
				t.Errorf("valid until %v", until)
			}
		}
		replace := func(content []byte) []byte {
			tlstest.Write(t, w.path("x.ocsp"), content)
			return content
		}
		expect(0, nil) // no file yet
		short := replace(answer(first, ocsp.Good, 2))
		expect(0, short)
		replace([]byte("nonsense"))
		expect(0, short) // as long as it holds
		long := replace(answer(first, ocsp.Good, 5))
		expect(0, long)
		second.Write(t, w.path("x.crt"), w.path("x.key"))
		expect(0, nil) // the response is another's
		fresh := replace(answer(second, ocsp.Good, 6))
		expect(0, fresh)
		expect(4*time.Hour, fresh)
		expect(3*time.Hour, nil) // its time is over
		if fault := c.Stats().Fault; !strings.Contains(fault, "no OCSP response to show any more") {
			t.Errorf("fault %q", fault)
		}
		last := replace(answer(second, ocsp.Good, 20))
		expect(0, last)
		replace(answer(second, ocsp.Revoked, 20))
		expect(0, nil) // the last one would hold, but we know better
		if err := os.Remove(w.path("x.ocsp")); err != nil {
			t.Fatal(err)
		}
		expect(0, nil)
	})
}
