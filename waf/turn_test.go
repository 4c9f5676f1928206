package waf

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestLargeBodiesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool()
		var ends []func()
		for range cap(p.turns.running) {
			end, ok := p.Turn(t.Context())
			if !ok {
				t.Fatal("a free turn was refused")
			}
			ends = append(ends, end)
		}
		if cap(p.turns.running) > max(1, runtime.GOMAXPROCS(0)/2) {
			t.Errorf("%d at once would take every core", cap(p.turns.running))
		}
		began := time.Now()
		if _, ok := p.Turn(t.Context()); ok || time.Since(began) != waitTurn {
			t.Errorf("ok %v after %v, want a refusal after %v", ok, time.Since(began), waitTurn)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := p.Turn(gone); ok {
			t.Error("a client that has gone got a turn")
		}
		got := make(chan bool)
		go func() {
			end, ok := p.Turn(t.Context())
			if ok {
				end()
			}
			got <- ok
		}()
		synctest.Wait()
		ends[0]()
		if !<-got {
			t.Error("a freed turn was not given on")
		}
		for _, end := range ends[1:] {
			end()
		}
	})
}

func TestOnlySoManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool()
		for range cap(p.turns.running) {
			p.turns.running <- struct{}{}
		}
		for range maxWaiting {
			go p.Turn(t.Context())
		}
		synctest.Wait()
		began := time.Now()
		if _, ok := p.Turn(t.Context()); ok || time.Since(began) != 0 {
			t.Errorf("ok %v after %v, want a refusal at once", ok, time.Since(began))
		}
		time.Sleep(2 * waitTurn)
	})
}
