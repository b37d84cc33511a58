package server

import (
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lmcache/lmcache-go/sm"
)

// Config says what a server is. Start from DefaultConfig: zeros mean zero.
type Config struct {
	Host     string // address of the request socket; * for all
	Port     int    // 0 is any free one, which the log names
	HTTPHost string
	HTTPPort int

	InstanceID    string // of this server, in metrics and spans
	ChunkSize     int    // tokens
	HashAlgorithm string

	// How many requests run at once: of those that prepare and commit, each client's
	// in order, and of all others; 0: one a processor, and at least two.
	AffinityWorkers int
	NormalWorkers   int

	TransferMode string // engine_driven, or auto which is the same here

	// ShmName names the shared memory in which engines find their objects; empty
	// turns it off.
	ShmName  string
	ShmGiven bool // by the user: where it cannot be had the server does not start

	SessionTTL        time.Duration // of a request that is never ended
	ReapTimeout       time.Duration // after which a worker that has pinged is forgotten; 0 forgets none
	RegistrationGrace time.Duration // the same for one that has not

	Reconfigure bool // POST /reconfigure may make and remove stores

	Storage sm.Config
}

// DefaultConfig returns the configuration of a command line without flags. The
// storage manager's has no size and no eviction policy.
func DefaultConfig() Config {
	return Config{
		Host: "localhost", Port: 5555, HTTPHost: "127.0.0.1", HTTPPort: 8080,
		ChunkSize: 256, HashAlgorithm: "blake3", TransferMode: "engine_driven",
		SessionTTL: 600 * time.Second, ReapTimeout: 120 * time.Second, RegistrationGrace: time.Hour,
		Storage: sm.DefaultConfig(),
	}
}

// ShmPrefix begins the name of every pool in shared memory.
const ShmPrefix = "lmcache_l1_pool_"

// SegmentName returns the file below /dev/shm for a --shm-name, as LMCache names
// it; empty for none.
func SegmentName(name string) string {
	if name = strings.TrimLeft(name, "/"); name == "" || strings.HasPrefix(name, ShmPrefix) {
		return name
	}
	return ShmPrefix + name
}

// address returns host:port for a listener.
func address(host string, port int) string {
	if host == "*" {
		host = ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// settings is what GET /config shows, under LMCache's names.
type settings struct {
	MP            mpSettings      `json:"mp"`
	Storage       json.RawMessage `json:"storage_manager"`
	Observability any             `json:"observability"`
	HTTP          httpSettings    `json:"http"`
	Coordinator   struct{}        `json:"coordinator"` // there is none
}

type mpSettings struct {
	Host            string  `json:"host"`
	Port            int     `json:"port"`
	Transport       string  `json:"transport"`
	InstanceID      string  `json:"instance_id"`
	ChunkSize       int     `json:"chunk_size"`
	HashAlgorithm   string  `json:"hash_algorithm"`
	AffinityWorkers int     `json:"max_gpu_workers"`
	NormalWorkers   int     `json:"max_cpu_workers"`
	EngineType      string  `json:"engine_type"`
	TransferMode    string  `json:"supported_transfer_mode"`
	ShmName         string  `json:"shm_name"`
	SessionTTL      float64 `json:"session_ttl_seconds"`
	ReapTimeout     float64 `json:"worker_reap_timeout_seconds"`
	Grace           float64 `json:"worker_registration_grace_seconds"`
}

type httpSettings struct {
	Host string `json:"http_host"`
	Port int    `json:"http_port"`
}

// settings describes the server that runs: shm is the name of its pool, empty for
// none.
func (c Config) settings(port, httpPort int, shm string, observability any) settings {
	return settings{
		MP: mpSettings{c.Host, port, "zmq", c.InstanceID, c.ChunkSize, c.HashAlgorithm, c.AffinityWorkers, c.NormalWorkers,
			"default", c.TransferMode, shm, c.SessionTTL.Seconds(), c.ReapTimeout.Seconds(), c.RegistrationGrace.Seconds()},
		Storage: json.RawMessage(c.Storage.JSON()), Observability: observability,
		HTTP: httpSettings{c.HTTPHost, httpPort},
	}
}
