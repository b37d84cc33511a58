package resp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/resp"
)

func TestConfig(t *testing.T) {
	got, err := resp.ParseRESP([]byte(`{"type": "resp", "host": "::1", "port": 6380, "num_workers": 2, "username": "u",
		"password": "p", "max_capacity_gb": 1.5, "unknown": [], "eviction": null}`))
	if err != nil || got.Nodes[0] != "[::1]:6380" || got.Workers != 2 || got.Username != "u" || got.Password != "p" ||
		got.CapacityBytes != 3<<29 || got.Cluster || got.TLS {
		t.Errorf("resp: %+v, %v", got, err)
	}
	got, err = resp.ParseValkey([]byte(`{"startup_nodes": "a:1,b:2", "cluster_mode": true, "key_prefix": "x", "database_id": 4,
		"tls_enable": true, "request_timeout": 0.5, "connection_timeout": 2, "ttl_seconds": 60}`))
	if err != nil || strings.Join(got.Nodes, " ") != "a:1 b:2" || !got.Cluster || !got.TLS || got.Prefix != "x@" || got.Database != 0 ||
		got.RequestTimeout != time.Second/2 || got.ConnectTimeout != 2*time.Second || got.TTL != time.Minute || got.Workers != 8 {
		t.Errorf("valkey: %+v, %v", got, err)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		kind         l2.Kind
		config, want string
	}{
		{resp.Kind, `{}`, "host must be a non-empty string"},
		{resp.Kind, `{"host": 1}`, "host must be a string"},
		{resp.Kind, `{"host": "h"}`, "port must be an integer from 1 to 65535"},
		{resp.Kind, `{"host": "h", "port": "1"}`, "port must be an integer"},
		{resp.Kind, `{"host": "h", "port": 1.5}`, "port must be an integer"},
		{resp.Kind, `{"host": "h", "port": 1, "num_workers": 0}`, "num_workers must be an integer from 1 to 1024"},
		{resp.Kind, `{"host": "h", "port": 1, "max_capacity_gb": -1}`, "max_capacity_gb must be a non-negative number"},
		{resp.Valkey, `{}`, "startup_nodes must be a list of host:port separated by commas, got ''"},
		{resp.Valkey, `{"startup_nodes": "a:1,b"}`, "startup_nodes must be a list of host:port separated by commas, got 'a:1,b'"},
		{resp.Valkey, `{"startup_nodes": "a:1", "key_prefix": "x@y"}`, "key_prefix must not contain '@', got 'x@y'"},
		{resp.Valkey, `{"startup_nodes": "a:1", "cluster_mode": "yes"}`, "cluster_mode must be true or false"},
		{resp.Valkey, `{"startup_nodes": "a:1", "database_id": -1}`, "database_id must be a non-negative integer"},
		{resp.Valkey, `{"startup_nodes": "a:1", "request_timeout": 0}`, "request_timeout must be a positive number of seconds, at most a day"},
		{resp.Valkey, `{"startup_nodes": "a:1", "ttl_seconds": 0}`, "ttl_seconds must be a positive integer"},
	} {
		if err := c.kind.Check([]byte(c.config)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v; want %s", c.config, err, c.want)
		}
	}
}

func TestEnvironmentGoesFirst(t *testing.T) {
	for name, value := range map[string]string{"HOST": "example", "PORT": "7000", "USERNAME": "eve", "PASSWORD": "pw"} {
		t.Setenv("LMCACHE_RESP_"+name, value)
	}
	for _, config := range []string{`{}`, `{"host": "h", "port": 1, "username": "u", "password": "p"}`} {
		got, err := resp.ParseRESP([]byte(config))
		if err != nil || got.Nodes[0] != "example:7000" || got.Username != "eve" || got.Password != "pw" {
			t.Errorf("%s: %+v, %v", config, got, err)
		}
	}
	t.Setenv("LMCACHE_RESP_PORT", "http")
	if _, err := resp.ParseRESP([]byte(`{}`)); err == nil || !strings.Contains(err.Error(), "LMCACHE_RESP_PORT must be an integer, got 'http'") {
		t.Errorf("wrong port: %v", err)
	}
}

func FuzzConfig(f *testing.F) { // property: no panic, and what is accepted is usable
	f.Add([]byte(`{"host": "h", "port": 1}`))
	f.Add([]byte(`{"startup_nodes": "a:1, b:2", "ttl_seconds": 1, "request_timeout": 1e-9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) (resp.Options, error){resp.ParseRESP, resp.ParseValkey} {
			opt, err := parse(data)
			if err == nil && (len(opt.Nodes) == 0 || opt.Workers < 1 || opt.CapacityBytes < 0 || opt.TTL < 0 || opt.RequestTimeout < 0) {
				t.Errorf("%s: accepted as %+v", data, opt)
			}
		}
	})
}
