package s3_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/l2/s3"
)

// fields returns a JSON object: the least that is accepted, with more.
func fields(t *testing.T, more string) []byte {
	t.Helper()
	object := map[string]any{"type": "s3", "s3_endpoint": "kvs.s3.eu-west-1.amazonaws.com", "s3_region": "eu-west-1"}
	if err := json.Unmarshal([]byte("{"+more+"}"), &object); err != nil {
		t.Fatalf("%s: %v", more, err)
	}
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestConfigDefaults(t *testing.T) {
	c, err := s3.ParseConfig(fields(t, `"s3_bucket": null, "other": []`))
	want := s3.Config{Host: "s3.eu-west-1.amazonaws.com", Bucket: "kvs", Region: "eu-west-1", Threads: 64, HTTP2: true, TLS: true,
		MinCooldown: 5 * time.Second, MaxCooldown: 300 * time.Second, Timeout: 30 * time.Second}
	if err != nil || c != want {
		t.Errorf("got %+v, %v; want %+v", c, err, want)
	}
	c, err = s3.ParseConfig(fields(t, `"s3_endpoint": "s3://minio:9000/", "s3_num_io_threads": 3, "s3_prefer_http2": false,
		"disable_tls": true, "aws_access_key_id": "", "aws_secret_access_key": "", "max_capacity_gb": 1.5,
		"s3_addressing_style": "path", "s3_bucket": "kv.cache", "s3_ca_bundle": "ca.pem",
		"s3_breaker_initial_cooldown_s": 0.5, "s3_breaker_max_cooldown_s": 2, "s3_timeout_s": 0.25`))
	want = s3.Config{Host: "minio:9000", Bucket: "kv.cache", PathStyle: true, Region: "eu-west-1", Threads: 3,
		CABundle: "ca.pem", Explicit: true, CapacityBytes: 3 << 29,
		MinCooldown: time.Second / 2, MaxCooldown: 2 * time.Second, Timeout: time.Second / 4}
	if err != nil || c != want {
		t.Errorf("got %+v, %v; want %+v", c, err, want)
	}
}

func TestConfigSplitsTheHost(t *testing.T) {
	for _, c := range []struct{ more, host, bucket string }{
		{`"s3_endpoint": "s3://kvs.s3.eu-west-1.amazonaws.com"`, "s3.eu-west-1.amazonaws.com", "kvs"},
		{`"s3_endpoint": "a.b.c.s3.amazonaws.com"`, "s3.amazonaws.com", "a.b.c"},
		{`"s3_endpoint": "kvs.s3-fips.us-gov-west-1.amazonaws.com"`, "s3-fips.us-gov-west-1.amazonaws.com", "kvs"},
		{`"s3_endpoint": "kvs.s3.cn-north-1.amazonaws.com.cn"`, "s3.cn-north-1.amazonaws.com.cn", "kvs"},
		{`"s3_endpoint": "kv-cache.storage.example.com:9000"`, "storage.example.com:9000", "kv-cache"},
		{`"s3_endpoint": "kv.cache.storage.example.com", "s3_bucket": "kv.cache"`, "storage.example.com", "kv.cache"},
		{`"s3_endpoint": "10.0.0.7:9000", "s3_bucket": "kvs", "s3_addressing_style": "path"`, "10.0.0.7:9000", "kvs"},
		{`"s3_endpoint": "[::1]:9000", "s3_bucket": "kvs", "s3_addressing_style": "path"`, "[::1]:9000", "kvs"},
	} {
		got, err := s3.ParseConfig(fields(t, c.more))
		if err != nil || got.Host != c.host || got.Bucket != c.bucket {
			t.Errorf("%s: %q, %q, %v; want %q, %q", c.more, got.Host, got.Bucket, err, c.host, c.bucket)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for more, want := range map[string]string{
		`"s3_endpoint": null`:                                      "s3_endpoint must be a non-empty string",
		`"s3_endpoint": ""`:                                        `s3_endpoint must be a non-empty string, got ''`,
		`"s3_endpoint": 7`:                                         "s3_endpoint must be a non-empty string, got 7",
		`"s3_endpoint": "https://kv.example.com"`:                  "s3_endpoint must be a host name, with s3:// at most before it and a port behind it, got 'https://kv.example.com'",
		`"s3_endpoint": "10.0.0.1:80"`:                             "s3_endpoint must begin with the bucket, as in bucket.s3.us-east-1.amazonaws.com, or s3_addressing_style be 'path', got '10.0.0.1:80'",
		`"s3_endpoint": "localhost:9000"`:                          "s3_endpoint must begin with the bucket, as in bucket.s3.us-east-1.amazonaws.com, or s3_addressing_style be 'path', got 'localhost:9000'",
		`"s3_endpoint": "s3.us-east-1.amazonaws.com"`:              "s3_endpoint must begin with the bucket, as in bucket.s3.us-east-1.amazonaws.com, or s3_addressing_style be 'path', got 's3.us-east-1.amazonaws.com'",
		`"s3_bucket": "elsewhere"`:                                 "s3_endpoint must begin with the bucket, as in bucket.s3.us-east-1.amazonaws.com, or s3_addressing_style be 'path', got 'kvs.s3.eu-west-1.amazonaws.com'",
		`"s3_region": ""`:                                          `s3_region must be a non-empty string, got ''`,
		`"s3_region": null`:                                        "s3_region must be a non-empty string",
		`"s3_num_io_threads": 0`:                                   "s3_num_io_threads must be a positive integer, got 0",
		`"s3_num_io_threads": 1.5`:                                 "s3_num_io_threads must be a positive integer, got 1.5",
		`"s3_num_io_threads": "8"`:                                 `s3_num_io_threads must be a positive integer, got '8'`,
		`"s3_prefer_http2": "yes"`:                                 `s3_prefer_http2 must be true or false, got 'yes'`,
		`"s3_enable_s3express": true`:                              "s3_enable_s3express is not supported in this build: directory buckets have a session protocol of their own",
		`"disable_tls": 1`:                                         "disable_tls must be true or false, got 1",
		`"aws_access_key_id": "a"`:                                 "aws_access_key_id and aws_secret_access_key must be given together",
		`"aws_access_key_id": "a", "aws_secret_access_key": ""`:    "aws_access_key_id and aws_secret_access_key must be given together",
		`"aws_access_key_id": "a", "aws_secret_access_key": 12345`: "aws_secret_access_key must be a string",
		`"max_capacity_gb": -1`:                                    "max_capacity_gb must be a number of at least 0, got -1",
		`"max_capacity_gb": 1e300`:                                 "max_capacity_gb must be a number of at least 0, got 1e+300",
		`"s3_addressing_style": "host"`:                            `s3_addressing_style must be 'virtual' or 'path', got 'host'`,
		`"s3_addressing_style": "path"`:                            "s3_bucket is required with s3_addressing_style 'path'",
		`"s3_addressing_style": "path", "s3_bucket": "UPPER/CASE"`: "bucket 'UPPER/CASE': Bucket name cannot contain path separators",
		`"s3_breaker_initial_cooldown_s": 0`:                       "s3_breaker_initial_cooldown_s must be a positive number, got 0",
		`"s3_breaker_max_cooldown_s": 4`:                           "s3_breaker_max_cooldown_s must not be below s3_breaker_initial_cooldown_s",
		`"s3_timeout_s": -3`:                                       "s3_timeout_s must be a positive number, got -3",
	} {
		if err := s3.Kind.Check(fields(t, more)); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", more, err, want)
		}
	}
}

// FuzzParseConfig: no input panics; what is accepted can be used; a secret never
// gets into a message.
func FuzzParseConfig(f *testing.F) {
	f.Add(`{"s3_endpoint": "bucket.s3.eu-west-1.amazonaws.com", "s3_region": "r"}`)
	f.Add(`{"s3_endpoint": "s3://[::1]:9000/", "s3_region": "r", "s3_addressing_style": "path", "s3_bucket": "b.c"}`)
	f.Add(`{"s3_endpoint": ".s3.amazonaws.com", "s3_region": "r", "aws_secret_access_key": 17}`)
	f.Add(`{"s3_timeout_s": 1e-30, "max_capacity_gb": 1e9, "s3_endpoint": "abc.d", "s3_region": "r"}`)
	f.Fuzz(func(t *testing.T, text string) {
		const secret = "the-secret-of-secrets"
		c, err := s3.ParseConfig([]byte(strings.ReplaceAll(text, "17", `["`+secret+`"]`)))
		if err != nil {
			if strings.Contains(err.Error(), secret) && strings.Contains(err.Error(), "aws_") {
				t.Errorf("the message shows a secret: %v", err)
			}
			return
		}
		if c.Host == "" || len(c.Bucket) < 3 || c.Region == "" || c.Threads < 1 || c.CapacityBytes < 0 ||
			c.Timeout < 0 || c.MinCooldown > c.MaxCooldown || strings.ContainsAny(c.Host, "/@ ") {
			t.Errorf("%q: accepted as %+v", text, c)
		}
	})
}
