package resp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lmcache/lmcache-go/l2"
)

// Options are the settings of Open.
type Options struct {
	Name           string   // the adapter's type, for logs
	Nodes          []string // host:port; of a cluster any of its nodes
	Cluster        bool
	Username       string
	Password       string
	Database       int // not in a cluster
	TLS            bool
	Prefix         string        // before every key
	Workers        int           // pipelines at once; 8 if zero
	RequestTimeout time.Duration // longest wait for the store to take or give a byte; 5 s if zero
	ConnectTimeout time.Duration // 10 s if zero
	TTL            time.Duration // life of a stored object; 0: for ever
	CapacityBytes  int64         // what Usage calls full; nothing is refused
}

const (
	defaultWorkers        = 8
	defaultRequestTimeout = 5 * time.Second
	defaultConnectTimeout = 10 * time.Second
	maxWorkers            = 1024
)

func (o Options) withDefaults() Options {
	if o.Workers == 0 {
		o.Workers = defaultWorkers
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = defaultRequestTimeout
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = defaultConnectTimeout
	}
	return o
}

// Kind is the registry's entry of the adapter "resp".
var Kind = kind(ParseRESP)

// Valkey is the registry's entry of the adapter "valkey".
var Valkey = kind(ParseValkey)

func kind(parse func([]byte) (Options, error)) l2.Kind {
	return l2.Kind{
		Check: func(config []byte) error { _, err := parse(config); return err },
		New: func(config []byte, env l2.Env) (l2.Adapter, error) {
			opt, err := parse(config)
			if err != nil {
				return nil, err
			}
			return Open(opt, env)
		},
	}
}

// ParseRESP reads the JSON object of a "resp" adapter. The environment variables
// LMCACHE_RESP_HOST, _PORT, _USERNAME and _PASSWORD go before it.
//
// Source: reference storage-manager.md, section 8.8.
func ParseRESP(raw []byte) (Options, error) {
	f, err := readFields(raw)
	if err != nil {
		return Options{}, err
	}
	host := f.text("host", "")
	if v := os.Getenv("LMCACHE_RESP_HOST"); v != "" {
		host = v
	} else if host == "" {
		f.refuse("host must be a non-empty string")
	}
	port := f.integer("port", 0)
	if v := os.Getenv("LMCACHE_RESP_PORT"); v != "" {
		if port, err = strconv.Atoi(v); err != nil {
			f.refuse("LMCACHE_RESP_PORT must be an integer, got '%s'", v)
		}
	}
	if port < 1 || port > 65535 {
		f.refuse("port must be an integer from 1 to 65535")
	}
	opt := Options{Name: "resp", Nodes: []string{net.JoinHostPort(host, strconv.Itoa(port))}}
	f.common(&opt)
	if v := os.Getenv("LMCACHE_RESP_USERNAME"); v != "" {
		opt.Username = v
	}
	if v := os.Getenv("LMCACHE_RESP_PASSWORD"); v != "" {
		opt.Password = v
	}
	return opt, f.err
}

// ParseValkey reads the JSON object of a "valkey" adapter.
//
// Source: reference storage-manager.md, section 8.9.
func ParseValkey(raw []byte) (Options, error) {
	f, err := readFields(raw)
	if err != nil {
		return Options{}, err
	}
	opt := Options{Name: "valkey", Cluster: f.boolean("cluster_mode", false), TLS: f.boolean("tls_enable", false)}
	nodes := f.text("startup_nodes", "")
	for node := range strings.SplitSeq(nodes, ",") {
		node = strings.TrimSpace(node)
		if _, port, err := net.SplitHostPort(node); err != nil || port == "" {
			f.refuse("startup_nodes must be a list of host:port separated by commas, got '%s'", nodes)
		}
		opt.Nodes = append(opt.Nodes, node)
	}
	prefix := f.text("key_prefix", "")
	if strings.Contains(prefix, "@") {
		f.refuse("key_prefix must not contain '@', got '%s'", prefix)
	} else if prefix != "" {
		opt.Prefix = prefix + "@"
	}
	if db := f.integer("database_id", 0); db < 0 {
		f.refuse("database_id must be a non-negative integer")
	} else if !opt.Cluster {
		opt.Database = db
	}
	opt.RequestTimeout = f.seconds("request_timeout", defaultRequestTimeout)
	opt.ConnectTimeout = f.seconds("connection_timeout", defaultConnectTimeout)
	if ttl := f.integer("ttl_seconds", 0); ttl < 0 || f.has("ttl_seconds") && ttl == 0 {
		f.refuse("ttl_seconds must be a positive integer")
	} else {
		opt.TTL = time.Duration(ttl) * time.Second
	}
	f.common(&opt)
	return opt, f.err
}

// fields reads the members of a JSON object and keeps the first mistake.
// Unknown members are ignored, as LMCache does; null counts as absent.
type fields struct {
	of  map[string]json.RawMessage
	err error
}

func readFields(raw []byte) (*fields, error) {
	f := &fields{}
	if err := json.Unmarshal(raw, &f.of); err != nil {
		return nil, err
	}
	for name, v := range f.of {
		if string(v) == "null" {
			delete(f.of, name)
		}
	}
	return f, nil
}

func (f *fields) common(opt *Options) {
	opt.Username, opt.Password = f.text("username", ""), f.text("password", "")
	opt.Workers = f.integer("num_workers", defaultWorkers)
	if opt.Workers < 1 || opt.Workers > maxWorkers {
		f.refuse("num_workers must be an integer from 1 to %d", maxWorkers)
	}
	gb := f.number("max_capacity_gb", 0)
	if !(gb >= 0 && gb < 1<<33) {
		f.refuse("max_capacity_gb must be a non-negative number")
		return
	}
	opt.CapacityBytes = int64(gb * (1 << 30))
}

func (f *fields) refuse(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

func (f *fields) has(name string) bool { return f.of[name] != nil }

func read[T any](f *fields, name, want string, v T) T {
	if raw, ok := f.of[name]; ok && f.err == nil {
		if err := json.Unmarshal(raw, &v); err != nil {
			f.err = errors.New(name + " must be " + want)
		}
	}
	return v
}

func (f *fields) text(name, def string) string { return read(f, name, "a string", def) }
func (f *fields) integer(name string, def int) int {
	return read(f, name, "an integer", def)
}
func (f *fields) boolean(name string, def bool) bool { return read(f, name, "true or false", def) }
func (f *fields) number(name string, def float64) float64 {
	return read(f, name, "a number", def)
}

func (f *fields) seconds(name string, def time.Duration) time.Duration {
	s := f.number(name, def.Seconds())
	if !(s > 0 && s <= 86400) {
		f.refuse("%s must be a positive number of seconds, at most a day", name)
	}
	return time.Duration(s * float64(time.Second))
}
