package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// A value is stored as the time it ends, in Unix milliseconds and 0 for never,
// and its data.
const stamp = 8

func seal(data []byte, ttl time.Duration) []byte {
	var end uint64
	if ttl > 0 {
		end = uint64(time.Now().Add(ttl).UnixMilli())
	}
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, stamp+len(data)), end), data...)
}

// open is nil for a value that has ended.
func open(v []byte) []byte {
	if len(v) < stamp {
		return nil
	}
	if end := binary.BigEndian.Uint64(v); end != 0 && uint64(time.Now().UnixMilli()) >= end {
		return nil
	}
	return v[stamp:]
}

// Get implements store.Values.
func (s *Store) Get(_ context.Context, folder, name string) (data []byte, err error) {
	if err := store.CheckNames(folder, name); err != nil {
		return nil, err
	}
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(values).Bucket([]byte(folder))
		if b == nil {
			return store.ErrNotFound
		}
		v := open(b.Get([]byte(name)))
		if v == nil {
			return store.ErrNotFound
		}
		data = bytes.Clone(v)
		return nil
	})
	return data, err
}

// change runs f on a folder, which is emptied of what has ended on the way.
func (s *Store) change(folder string, names []string, f func(b *bbolt.Bucket) error) error {
	if err := store.CheckNames(folder, names...); err != nil {
		return err
	}
	err := s.update(func(tx *bbolt.Tx) error {
		b, err := tx.Bucket(values).CreateBucketIfNotExists([]byte(folder))
		if err != nil {
			return err
		}
		var ended [][]byte
		err = b.ForEach(func(k, v []byte) error {
			if open(v) == nil {
				ended = append(ended, bytes.Clone(k))
			}
			return nil
		})
		for _, k := range ended {
			if err == nil {
				err = b.Delete(k)
			}
		}
		if err != nil {
			return err
		}
		return f(b)
	})
	if err == nil {
		s.tell(folder)
	}
	return err
}

// Put implements store.Values.
func (s *Store) Put(_ context.Context, folder, name string, data []byte, ttl time.Duration) error {
	return s.change(folder, []string{name}, func(b *bbolt.Bucket) error {
		return b.Put([]byte(name), seal(data, ttl))
	})
}

// Swap implements store.Values.
func (s *Store) Swap(_ context.Context, folder, name string, old, data []byte, ttl time.Duration) error {
	return s.change(folder, []string{name}, func(b *bbolt.Bucket) error {
		v := open(b.Get([]byte(name)))
		if (v == nil) != (old == nil) || !bytes.Equal(v, old) {
			return store.ErrConflict
		}
		if data == nil {
			return b.Delete([]byte(name))
		}
		return b.Put([]byte(name), seal(data, ttl))
	})
}

// Delete implements store.Values.
func (s *Store) Delete(_ context.Context, folder, name string) error {
	return s.change(folder, []string{name}, func(b *bbolt.Bucket) error { return b.Delete([]byte(name)) })
}

// List implements store.Values.
func (s *Store) List(_ context.Context, folder string) (list []store.Value, err error) {
	if err := store.CheckNames(folder); err != nil {
		return nil, err
	}
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(values).Bucket([]byte(folder))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { // in the order of names
			if v = open(v); v != nil {
				list = append(list, store.Value{Name: string(k), Data: bytes.Clone(v)})
			}
			return nil
		})
	})
	return list, err
}
