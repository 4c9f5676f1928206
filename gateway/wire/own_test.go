package wire

import "testing"

func TestServersOwn(t *testing.T) {
	trailers := [][]byte{[]byte("Grpc-Status")}
	for name, want := range map[string]bool{
		"Date": true, "date": true, "Trailer": true, "Upgrade": true, "Connection": true, "Keep-Alive": true, "Content-Length": true,
		"Proxy-Connection": true, "Transfer-Encoding": true, "Grpc-Status": true,
		"Etag": false, "Expires": false, "Set-Cookie": false, "Content-Location": false, "": false,
	} {
		if got := ServersOwn([]byte(name), trailers, false); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if ServersOwn([]byte("Upgrade"), nil, true) {
		t.Error("a switch of protocols lost its Upgrade")
	}
	if ServersOwn([]byte("Grpc-Status"), nil, false) {
		t.Error("no trailer was announced")
	}
}
