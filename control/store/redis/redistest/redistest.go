// Package redistest starts real Redis servers on loopback for tests: one, a
// primary with replicas and Sentinels, or a Cluster. scripts/setup.sh installs
// what it needs.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
)

// Server is one Redis process.
type Server struct {
	// Address is HOST:PORT; it stays the same over restarts.
	Address string
	dir     string
	args    []string
	cmd     *exec.Cmd
	client  *redis.Client
	killed  func(t testing.TB) // what is to happen then; nil: nothing
}

// Start starts a server that keeps nothing on disk, with more arguments for its
// command line. It ends with the test.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, "redis-server", append([]string{"--save", "", "--appendonly", "no"}, args...)...)
}

func start(t testing.TB, name string, args ...string) *Server {
	t.Helper()
	s := &Server{Address: reserve(t), dir: t.TempDir(), args: args}
	_, port, _ := net.SplitHostPort(s.Address)
	s.args = append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", s.dir, "--logfile", filepath.Join(s.dir, name+".log")}, args...)
	s.begin(t)
	return s
}

// begin runs a server until the test ends.
func (s *Server) begin(t testing.TB) {
	t.Helper()
	const ample = 30 * time.Second // for a machine that is busy
	s.client = redis.NewClient(&redis.Options{Addr: s.Address, DialTimeout: ample, ReadTimeout: ample, WriteTimeout: ample, MaxRetries: -1})
	t.Cleanup(func() {
		s.kill()
		_ = s.client.Close() // whatever the test did to it
	})
	s.Run(t)
}

// Run starts a server again that was killed. Its memory is empty.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("%v (scripts/setup.sh installs Redis)", err)
	}
	wait(t, "Redis on "+s.Address, func(ctx context.Context) error {
		err := s.client.Ping(ctx).Err()
		if redis.HasErrorPrefix(err, "NOAUTH") || redis.HasErrorPrefix(err, "LOADING") {
			return nil
		}
		return err
	})
}

// Kill ends a server as a crash does.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.kill()
	if s.killed != nil {
		s.killed(t)
	}
}

func (s *Server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Pause stops a server's process without ending it; its connections stay open
// and nothing is answered.
func (s *Server) Pause(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Do sends a command to the server itself.
func (s *Server) Do(t testing.TB, args ...any) any {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	v, err := s.client.Do(ctx, args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

// Sentinels is a primary with two replicas under three Sentinels.
type Sentinels struct {
	// Servers are the primary, at the start, and its replicas.
	Servers [3]*Server
	// Addresses are those of the Sentinels.
	Addresses []string
}

// Name is what Sentinels call the primary.
const Name = "fleet"

// How long a server is silent, in milliseconds, until others take its place: a
// machine that is busy must not look like that. Once a server is killed it is
// not to be waited for that long.
const (
	patient   = "30000"
	impatient = "700"
)

// StartSentinels starts them, and waits until a failover would work.
func StartSentinels(t testing.TB) *Sentinels {
	t.Helper()
	s := &Sentinels{}
	s.Servers[0] = Start(t)
	host, port, _ := net.SplitHostPort(s.Servers[0].Address)
	for i := 1; i < 3; i++ {
		s.Servers[i] = Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	}
	var sentinels []*Server
	for range 3 {
		dir := t.TempDir()
		path := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor %s %s %s 2\nsentinel down-after-milliseconds %[1]s %s\nsentinel failover-timeout %[1]s 5000\n", Name, host, port, patient)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// The file must come first.
		x := &Server{Address: reserve(t), dir: dir}
		_, p, _ := net.SplitHostPort(x.Address)
		x.args = []string{path, "--sentinel", "--port", p, "--bind", "127.0.0.1", "--dir", dir, "--logfile", filepath.Join(dir, "sentinel.log")}
		x.begin(t)
		s.Addresses, sentinels = append(s.Addresses, x.Address), append(sentinels, x)
	}
	for _, x := range sentinels {
		wait(t, "Sentinels that know each other and the replicas", func(ctx context.Context) error {
			m, err := x.client.Do(ctx, "SENTINEL", "MASTER", Name).Result()
			if err != nil {
				return err
			}
			text := fmt.Sprint(m)
			if !strings.Contains(text, "num-slaves:2") || !strings.Contains(text, "num-other-sentinels:2") {
				return fmt.Errorf("not yet: %s", text)
			}
			return nil
		})
	}
	wait(t, "replicas that follow", func(ctx context.Context) error {
		info, err := s.Servers[0].client.Info(ctx, "replication").Result()
		if err == nil && strings.Count(info, "state=online") < 2 {
			err = errors.New(info)
		}
		return err
	})
	s.Servers[0].killed = func(t testing.TB) {
		for _, x := range sentinels {
			x.Do(t, "SENTINEL", "SET", Name, "down-after-milliseconds", impatient)
		}
		again := time.AfterFunc(tooLate, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			for _, x := range sentinels {
				x.client.Do(ctx, "SENTINEL", "SET", Name, "down-after-milliseconds", patient)
			}
		})
		t.Cleanup(func() { again.Stop() })
	}
	return s
}

// tooLate is when a failover that should have happened may never happen: Sentinel
// takes no replica that was alone for longer than ten times the silence it bears,
// and does nothing for half a minute once it finds that its machine has stalled.
// If it bears more, it takes one.
const tooLate = 10 * time.Second

// StartCluster starts a Cluster of three primaries and returns its addresses.
func StartCluster(t testing.TB) []*Server {
	t.Helper()
	list := startCluster(t)
	setTimeout(t, list, patient)
	return list
}

// startClusterServer starts one that is impatient, since such servers get to know
// each other soon.
func startClusterServer(t testing.TB) *Server {
	t.Helper()
	return Start(t, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
		"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
}

func setTimeout(t testing.TB, list []*Server, timeout string) {
	t.Helper()
	for _, s := range list {
		s.Do(t, "CONFIG", "SET", "cluster-node-timeout", timeout)
	}
}

// startCluster starts primaries.
func startCluster(t testing.TB) []*Server {
	t.Helper()
	var list []*Server
	for range 3 {
		list = append(list, startClusterServer(t))
	}
	for i, s := range list {
		s.Do(t, "CLUSTER", "ADDSLOTSRANGE", i*16384/3, (i+1)*16384/3-1)
		for _, other := range list {
			host, port, _ := net.SplitHostPort(other.Address)
			s.Do(t, "CLUSTER", "MEET", host, port)
		}
	}
	for _, s := range list {
		wait(t, "a whole Cluster", func(ctx context.Context) error {
			info, err := s.client.ClusterInfo(ctx).Result()
			if err == nil && (!strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3")) {
				err = errors.New(info)
			}
			return err
		})
	}
	return list
}

// Cluster is a Redis Cluster whose primaries have a replica each.
type Cluster struct{ Primaries, Replicas []*Server }

// Addresses are those of all servers.
func (c *Cluster) Addresses() []string {
	var list []string
	for _, s := range slices.Concat(c.Primaries, c.Replicas) {
		list = append(list, s.Address)
	}
	return list
}

// PrimaryOf is the server that had a key at the start.
func (c *Cluster) PrimaryOf(t testing.TB, key string) *Server {
	t.Helper()
	slot, _ := c.Primaries[0].Do(t, "CLUSTER", "KEYSLOT", key).(int64)
	n := int64(len(c.Primaries))
	for i, s := range c.Primaries {
		if slot < (int64(i)+1)*16384/n {
			return s
		}
	}
	t.Fatalf("%s is in slot %d", key, slot)
	return nil
}

// StartClusterWithReplicas starts a Cluster of three primaries that survives the
// loss of one, and waits until it would.
func StartClusterWithReplicas(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{Primaries: startCluster(t)}
	for _, p := range c.Primaries {
		id, _ := p.Do(t, "CLUSTER", "MYID").(string)
		r := startClusterServer(t)
		host, port, _ := net.SplitHostPort(p.Address)
		r.Do(t, "CLUSTER", "MEET", host, port)
		wait(t, "a replica that knows its primary", func(ctx context.Context) error {
			return r.client.ClusterReplicate(ctx, id).Err()
		})
		c.Replicas = append(c.Replicas, r)
	}
	for _, s := range slices.Concat(c.Primaries, c.Replicas) {
		wait(t, "a Cluster whose replicas follow, known to "+s.Address, func(ctx context.Context) error {
			text, err := s.client.ClusterNodes(ctx).Result()
			if err == nil && strings.Count(text, "slave") < len(c.Primaries) {
				err = errors.New(text)
			}
			return err
		})
	}
	for _, r := range c.Replicas {
		wait(t, "a replica that has everything", func(ctx context.Context) error {
			info, err := r.client.Info(ctx, "replication").Result()
			if err == nil && !strings.Contains(info, "master_link_status:up") {
				err = errors.New(info)
			}
			return err
		})
	}
	all := slices.Concat(c.Primaries, c.Replicas)
	setTimeout(t, all, patient)
	for i, p := range c.Primaries {
		p.killed = func(t testing.TB) { setTimeout(t, slices.Delete(slices.Clone(all), i, i+1), impatient) }
	}
	return c
}

func wait(t testing.TB, what string, ok func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := ok(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reserve returns an address together with the port 10 000 above, where a
// Cluster's servers talk to each other.
func reserve(t testing.TB) string { return sockettest.Reserve(t, 10000) }
