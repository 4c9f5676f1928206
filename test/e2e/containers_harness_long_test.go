//go:build long

package e2e

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// engine is a Docker daemon of the test's own. It has namespaces of its own for
// processes, mounts and networks, so that all it has started ends with it and
// nothing of the machine's own containers and packet filters is touched.
type engine struct {
	t       *testing.T
	dir     string
	daemon  *exec.Cmd
	client  *http.Client // in the daemon's network, where ports are published
	compose []string     // "docker compose", or what Debian has
	env     []string
}

// startEngine skips the test where no engine can work.
func startEngine(t *testing.T) *engine {
	t.Helper()
	skip := func(why string, args ...any) {
		t.Skipf("containers are not tested here: "+why+"; TestComposeAsProcesses runs the same config as processes", args...)
	}
	if os.Geteuid() != 0 {
		skip("an engine needs root")
	}
	for _, name := range []string{"docker", "dockerd", "containerd", "unshare", "nsenter", "ip", "busybox", "redis-server", "prometheus"} {
		if _, err := exec.LookPath(name); err != nil {
			skip("%v (scripts/setup.sh containers installs it)", err)
		}
	}
	e := &engine{t: t, dir: t.TempDir()}
	socket := filepath.Join(e.dir, "socket")
	e.env = append(os.Environ(), "DOCKER_HOST=unix://"+socket, "DOCKER_BUILDKIT=0")
	switch {
	case exec.Command("docker", "compose", "version").Run() == nil:
		e.compose = []string{"docker", "compose"}
	case exec.Command("docker-compose", "version").Run() == nil:
		e.compose = []string{"docker-compose"}
	default:
		skip("there is neither docker compose nor docker-compose")
	}
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := os.WriteFile(filepath.Join(e.dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.daemon = exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
		`mount -t tmpfs tmpfs /run && ip link set lo up && exec dockerd --config-file "$0/daemon.json" --data-root "$0/data" `+
			`--exec-root "$0/exec" --pidfile "$0/pid" -H "unix://$0/socket" --oom-score-adjust 0 --bridge none`, e.dir)
	e.daemon.Stdout, e.daemon.Stderr = log, log
	if err := e.daemon.Start(); err != nil {
		skip("%v", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- e.daemon.Wait() }()
	t.Cleanup(func() {
		// What ends with the daemon leaves its control groups; this does not.
		_, _ = e.try("sh", "-c", "docker ps --all --quiet | xargs -r docker rm --force --volumes")
		e.end()
		<-exited
	})
	tail := func() string {
		b, _ := os.ReadFile(log.Name())
		return string(b[max(0, len(b)-3000):])
	}
	e.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: e.dial, DisableKeepAlives: true}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if _, err = e.try("docker", "info"); err == nil {
			break
		}
		select {
		case err := <-exited:
			exited <- err
			skip("the daemon ended: %v\n%s", err, tail())
		default:
		}
		if time.Now().After(end) {
			skip("the daemon does not answer: %v\n%s", err, tail())
		}
	}
	// The smallest image there is shows whether containers work at all.
	const probe = "gatehouse-probe"
	if err := e.importImage(probe, files{"gatehouse": {mode: 0o755, from: binary}}); err != nil {
		skip("an image cannot be made: %v", err)
	}
	if _, err := e.try("docker", "network", "create", probe); err != nil {
		skip("a network cannot be made: %v", err)
	}
	if out, err := e.try("docker", "run", "--rm", "--network", probe, probe, "/gatehouse", "--version"); err != nil || !strings.HasPrefix(out, "gatehouse ") {
		skip("a container with nothing but the binary does not run: %v, %q\n%s", err, out, tail())
	}
	return e
}

// end kills the daemon as the first process of its namespace. With it end all
// others there, and unshare, which waits for it, ends last: nobody writes to the
// test's folder any more.
func (e *engine) end() {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", e.daemon.Process.Pid))
	if child, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && syscall.Kill(child, syscall.SIGKILL) == nil {
		return
	}
	_ = e.daemon.Process.Kill() // it has no child yet, or none any more
}

// try runs a command against the daemon, for five minutes at most.
func (e *engine) try(name string, args ...string) (string, error) {
	return e.tryIn(nil, nil, name, args...)
}

func (e *engine) tryIn(env []string, stdin io.Reader, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.WaitDelay = root, append(e.env[:len(e.env):len(e.env)], env...), stdin, time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %q: %w\n%s", name, args, err, errs.String())
	}
	return out.String(), nil
}

// docker runs a command that has to succeed and returns what it prints.
func (e *engine) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.try("docker", args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// inspect reads one field of a container.
func (e *engine) inspect(t *testing.T, container, field string) string {
	t.Helper()
	return e.docker(t, "inspect", "--format", "{{"+field+"}}", container)
}

// waitFor waits until a field of a container has this value.
func (e *engine) waitFor(t *testing.T, container, field, want string) {
	t.Helper()
	eventually(t, container+": "+field+" "+want, func() error {
		have, err := e.try("docker", "inspect", "--format", "{{"+field+"}}", container)
		if have = strings.TrimSpace(have); err == nil && have != want {
			logs, _ := e.try("docker", "logs", "--tail", "10", container)
			err = fmt.Errorf("it is %s\n%s", have, logs)
		}
		return err
	})
}

// crash kills the first process of a container as the kernel would, not by way
// of the daemon, to which that is an operator's wish.
func (e *engine) crash(t *testing.T, container string) {
	t.Helper()
	space := fmt.Sprintf("--pid=/proc/%d/ns/pid_for_children", e.daemon.Process.Pid)
	if _, err := e.try("nsenter", space, "kill", "-KILL", e.inspect(t, container, ".State.Pid")); err != nil {
		t.Fatal(err)
	}
}

// dial connects from within the daemon's network. The thread that has gone there
// is not used again: it ends with its goroutine.
func (e *engine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		net.Conn
		error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", e.daemon.Process.Pid))
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), syscall.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{c, err}
	}()
	r := <-done
	return r.Conn, r.error
}

// get asks what is published, or a container by its address, on a new connection.
func (e *engine) get(u string) (int, string, error) {
	r, err := e.client.Get(u)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// answers is what eventually asks: is this the answer now?
func (e *engine) answers(u, want string) func() error {
	return func() error {
		code, body, err := e.get(u)
		if err == nil && body != want {
			err = fmt.Errorf("%d %q", code, body)
		}
		return err
	}
}

// metric is what a container shows on its admin port: the sum of the series that
// begin so.
func (e *engine) metric(container, series string) (sum float64, err error) {
	address, err := e.try("docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)
	if err != nil {
		return 0, err
	}
	_, body, err := e.get("http://" + strings.TrimSpace(address) + ":9901/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, series) {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			if err != nil {
				return 0, err
			}
			sum += v
		}
	}
	return sum, nil
}

// file is one of an image: content, or what is in a file of this machine, or a
// folder if its name ends in "/".
type file struct {
	mode, uid, gid int
	content, from  string
	link           string
}

type files map[string]file

// importImage makes an image without a registry.
func (e *engine) importImage(name string, all files, changes ...string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for path, f := range all {
		h := &tar.Header{Name: path, Mode: int64(f.mode), Uid: f.uid, Gid: f.gid, Typeflag: tar.TypeReg}
		content := []byte(f.content)
		switch {
		case strings.HasSuffix(path, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		case f.from != "":
			var err error
			if content, err = os.ReadFile(f.from); err != nil {
				return err
			}
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	_, err := e.tryIn(nil, &b, "docker", append(args, "-", name)...)
	return err
}

// system is a small one with a shell, and programs of this machine with the
// libraries they need.
func system(t *testing.T, programs ...string) files {
	t.Helper()
	all := files{"tmp/": {mode: 0o1777}, "etc/passwd": {mode: 0o644}, "etc/group": {mode: 0o644}}
	for _, applet := range strings.Fields("sh cat chmod chown cp echo grep head base64 mkdir test wget") {
		all["bin/"+applet] = file{link: "/usr/bin/busybox"}
	}
	for _, name := range append(programs, "busybox") {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		all["usr/bin/"+name] = file{mode: 0o755, from: path}
		out, _ := exec.Command("ldd", path).Output() // fails for what needs none
		for _, library := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
			all[strings.TrimPrefix(library, "/")] = file{mode: 0o755, from: library}
		}
	}
	return all
}

// baseImages stands in for what a registry would send, under the very names that
// the Dockerfile and the compose file use: with the same users and folders, and
// with the programs of this machine. authority is one that the image is to trust.
func (e *engine) baseImages(authority []byte) {
	t := e.t
	t.Helper()
	redis := system(t, "redis-server", "redis-cli")
	redis["etc/passwd"] = file{mode: 0o644, content: "root:x:0:0::/:/bin/sh\nredis:x:999:1000::/data:/bin/sh\n"}
	redis["etc/group"] = file{mode: 0o644, content: "root:x:0:\nredis:x:1000:\n"}
	redis["data/"] = file{mode: 0o755, uid: 999, gid: 1000}

	prometheus := system(t, "prometheus")
	prometheus["etc/passwd"] = file{mode: 0o644, content: "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"}
	prometheus["prometheus/"] = file{mode: 0o755, uid: 65534, gid: 65534}

	alpine := system(t)
	alpine["bin/apk"] = file{mode: 0o755, content: "#!/bin/sh\n"} // all it would add is there
	alpine["etc/ssl/certs/ca-certificates.crt"] = file{mode: 0o644, content: string(authority)}
	alpine["usr/share/zoneinfo/Europe/Berlin"] = file{mode: 0o644, content: zone(t, "Europe/Berlin")}

	for name, err := range map[string]error{
		"redis": e.importImage("redis:8-alpine", redis),
		"prometheus": e.importImage("prom/prometheus:v3.5.0", prometheus, "USER nobody", "WORKDIR /prometheus", "VOLUME /prometheus",
			`ENTRYPOINT ["/usr/bin/prometheus"]`, `CMD ["--config.file=/etc/prometheus/prometheus.yml","--storage.tsdb.path=/prometheus"]`),
		"alpine": e.importImage("alpine:3.22", alpine),
	} {
		if err != nil {
			t.Fatalf("image %s: %v", name, err)
		}
	}
}

// zone is a time zone as Go ships it.
func zone(t *testing.T, name string) string {
	t.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(goroot)), "lib/time/zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := z.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// prometheus reads from its API.
func (e *engine) prometheus(address, path string, into any) error {
	code, body, err := e.get("http://" + address + "/api/v1/" + path)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d %s", code, body)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), into)
}

// eventually waits for what no process of ours has to do with.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	if err := awaited(ok, nil); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
