package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Config is what the adapter reads of its JSON object.
//
// Source: reference storage-manager.md, section 8.10; the last field is ours.
type Config struct {
	Host      string // of the service without the bucket, with the port where there is one
	Bucket    string
	PathStyle bool // the bucket is in the path; else it is the first part of the host name
	Region    string
	Threads   int  // requests at once
	HTTP2     bool // where the server speaks it
	TLS       bool
	CABundle  string // file of PEM certificates to trust instead of the system's; may be empty

	// Explicit says that the keys below are used as they are: two empty ones
	// mean requests without a signature. Else they come from the environment,
	// the files of the AWS tools, or the machine's role, in this order.
	Explicit             bool
	AccessKey, SecretKey string

	CapacityBytes            int64         // 0: unlimited
	MinCooldown, MaxCooldown time.Duration // of the breaker
	Timeout                  time.Duration // an object's request, with its repetitions, may take this and a second for every MiB
}

// setting is one field of the JSON object.
type setting struct {
	name   string
	value  any // pointer to where it goes; keeps its default when absent or null
	want   string
	secret bool // the value stays out of messages
}

// ParseConfig reads the adapter's JSON object; fields that it does not know are
// ignored, as LMCache does. It does not touch files or the network.
func ParseConfig(raw []byte) (Config, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return Config{}, err
	}
	const text, positive = "a non-empty string", "a positive number" // at least a thousandth
	c := Config{Threads: 64, HTTP2: true}
	var (
		endpoint, style             = "", "virtual"
		express, noTLS              bool
		access, secret              *string
		capacityGB                  float64
		minCooldown, maxCooldown, s = 5.0, 300.0, 30.0
	)
	for _, f := range []setting{
		{"s3_endpoint", &endpoint, text, false},
		{"s3_region", &c.Region, text, false},
		{"s3_num_io_threads", &c.Threads, "a positive integer", false},
		{"s3_prefer_http2", &c.HTTP2, "true or false", false},
		{"s3_enable_s3express", &express, "true or false", false},
		{"disable_tls", &noTLS, "true or false", false},
		{"aws_access_key_id", &access, "a string", true},
		{"aws_secret_access_key", &secret, "a string", true},
		{"max_capacity_gb", &capacityGB, "a number of at least 0", false},
		{"s3_addressing_style", &style, "'virtual' or 'path'", false},
		{"s3_bucket", &c.Bucket, text, false},
		{"s3_ca_bundle", &c.CABundle, text, false},
		{"s3_breaker_initial_cooldown_s", &minCooldown, positive, false},
		{"s3_breaker_max_cooldown_s", &maxCooldown, positive, false},
		{"s3_timeout_s", &s, positive, false},
	} {
		if err := f.read(fields[f.name]); err != nil {
			return Config{}, err
		}
	}
	c.TLS = !noTLS
	c.CapacityBytes = int64(capacityGB * (1 << 30))
	c.MinCooldown, c.MaxCooldown, c.Timeout = seconds(minCooldown), seconds(maxCooldown), seconds(s)
	switch {
	case endpoint == "":
		return Config{}, errors.New("s3_endpoint must be a non-empty string")
	case c.Region == "":
		return Config{}, errors.New("s3_region must be a non-empty string")
	case express:
		return Config{}, errors.New("s3_enable_s3express is not supported in this build: directory buckets have a session protocol of their own")
	case (access == nil) != (secret == nil), access != nil && (*access == "") != (*secret == ""):
		return Config{}, errors.New("aws_access_key_id and aws_secret_access_key must be given together")
	case maxCooldown < minCooldown:
		return Config{}, errors.New("s3_breaker_max_cooldown_s must not be below s3_breaker_initial_cooldown_s")
	}
	if access != nil {
		c.Explicit, c.AccessKey, c.SecretKey = true, *access, *secret
	}
	c.PathStyle = style == "path"
	return c, c.locate(endpoint)
}

// read sets the field from its JSON text.
func (f setting) read(raw json.RawMessage) error {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	ok := json.Unmarshal(raw, f.value) == nil
	if ok {
		switch v := f.value.(type) {
		case *string:
			ok = *v != ""
			if f.name == "s3_addressing_style" {
				ok = *v == "virtual" || *v == "path"
			}
		case *int:
			ok = *v > 0 && *v <= 1<<16
		case *float64:
			ok = *v >= 1e-3 && *v <= 1e9 || *v >= 0 && *v <= 1e9 && f.name == "max_capacity_gb"
		}
	}
	switch {
	case ok:
		return nil
	case f.secret:
		return fmt.Errorf("%s must be %s", f.name, f.want)
	}
	got := string(raw)
	if s := ""; json.Unmarshal(raw, &s) == nil {
		got = "'" + s + "'"
	}
	return fmt.Errorf("%s must be %s, got %s", f.name, f.want, got)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// locate splits the endpoint into host and bucket.
func (c *Config) locate(endpoint string) error {
	host := strings.TrimSuffix(strings.TrimPrefix(endpoint, "s3://"), "/")
	if host == "" || strings.ContainsAny(host, "/@?# \t\r\n") {
		return fmt.Errorf("s3_endpoint must be a host name, with s3:// at most before it and a port behind it, got '%s'", endpoint)
	}
	if c.PathStyle {
		if c.Bucket == "" {
			return errors.New("s3_bucket is required with s3_addressing_style 'path'")
		}
		c.Host = host
	} else if err := c.splitHost(host); err != nil {
		return err
	}
	if err := s3utils.CheckValidBucketName(c.Bucket); err != nil {
		return fmt.Errorf("bucket '%s': %w", c.Bucket, err)
	}
	return nil
}

// splitHost takes the bucket off the host name. It is the first label, unless
// the name is one of Amazon's, where a bucket may have dots, or s3_bucket says
// what it is.
func (c *Config) splitHost(host string) error {
	bare := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		bare = h
	}
	bucket, rest, ok := strings.Cut(host, ".")
	if net.ParseIP(bare) != nil {
		ok = false
	}
	if strings.HasSuffix(bare, ".amazonaws.com") || strings.HasSuffix(bare, ".amazonaws.com.cn") {
		ok = false
		for _, service := range []string{".s3.", ".s3-"} {
			if i := strings.LastIndex(host, service); i > 0 {
				bucket, rest, ok = host[:i], host[i+1:], true
			}
		}
	}
	if c.Bucket != "" {
		bucket = c.Bucket
		rest, ok = strings.CutPrefix(host, bucket+".")
	}
	if !ok || bucket == "" || rest == "" {
		return fmt.Errorf("s3_endpoint must begin with the bucket, as in bucket.s3.us-east-1.amazonaws.com, "+
			"or s3_addressing_style be 'path', got '%s'", host)
	}
	c.Bucket, c.Host = bucket, rest
	return nil
}
