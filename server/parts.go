package server

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// makers make the parts that a Server joins.
type makers struct {
	// front binds the request socket.
	front func(addr string, cfg Config, log *slog.Logger) (front, error)
	// service serves requests with a storage manager; pool may be nil.
	service func(cfg Config, m *sm.Manager, opt sm.Options) (service, error)
}

func (m makers) orReal() makers {
	if m.front == nil {
		m.front = listen
	}
	if m.service == nil {
		m.service = newEngine
	}
	return m
}

// listen binds the ZMQ front-end.
func listen(addr string, cfg Config, log *slog.Logger) (front, error) {
	s, err := mq.Listen("tcp://"+addr, mq.Options{Workers: cfg.NormalWorkers, AffinityWorkers: cfg.AffinityWorkers, Log: log})
	if err != nil {
		return nil, err // not s: a nil *mq.Server is no nil front
	}
	return s, nil
}

// newPool makes the memory that engines share: nil without one. A name that was
// asked for must be had, and one that another server has is never taken; else
// the server does without.
func newPool(cfg Config, log *slog.Logger) (*l1.Pool, error) {
	if cfg.ShmName == "" {
		return nil, nil
	}
	tiers := cfg.Storage.Tiers()
	var err error
	if len(tiers) > 1 {
		err = errors.New("it is the whole of one L1, and there are several")
	} else {
		var pool *l1.Pool
		var replaced bool
		if pool, replaced, err = l1.NewPool(cfg.ShmName, tiers[0].L1.SizeBytes); err == nil {
			if replaced {
				log.Warn(fmt.Sprintf("shared memory %s was left behind by a server that is gone: replaced", cfg.ShmName))
			}
			return pool, nil
		}
	}
	var inUse *l1.PoolInUseError
	if cfg.ShmGiven || errors.As(err, &inUse) {
		return nil, fmt.Errorf("shared memory %s: %w (--shm-name chooses another, \"\" none)", cfg.ShmName, poolReason(cfg, err))
	}
	log.Warn(fmt.Sprintf("shared memory %s: %v; going on with private memory: engines can look up only", cfg.ShmName, poolReason(cfg, err)))
	return nil, nil
}

// poolReason says in one clause what is wrong.
func poolReason(cfg Config, err error) error {
	var space *mmapio.SpaceError
	if errors.As(err, &space) {
		return fmt.Errorf("%s has less free space than L1, %d bytes", l1.PoolDir, cfg.Storage.Tiers()[0].L1.SizeBytes)
	}
	return err
}

func newEngine(cfg Config, m *sm.Manager, opt sm.Options) (service, error) {
	c := engine.Config{
		Storage: m, Clock: opt.Clock, ChunkSize: cfg.ChunkSize, Algorithm: cfg.HashAlgorithm,
		SessionTTL: cfg.SessionTTL, ReapAfter: cfg.ReapTimeout, Grace: cfg.RegistrationGrace, Log: opt.Log,
	}
	if cfg.ReapTimeout == 0 {
		c.ReapAfter = -1
	}
	if opt.Pool != nil {
		c.Pool = wire.Pool{Name: opt.Pool.Name(), Size: opt.Pool.Size()}
		c.WriteTTL = time.Duration(cfg.Storage.Tiers()[0].L1.WriteTTLSeconds) * time.Second
	}
	e, err := engine.New(c)
	if err != nil {
		return nil, err // not e: a nil *engine.Engine is no nil service
	}
	return e, nil
}
