package server

import "github.com/lmcache/lmcache-go/telemetry"

// watch adds the request front-end to what gauges show of the storage manager.
func (s *Server) watch(storage func() telemetry.State) func() telemetry.State {
	return func() telemetry.State {
		state, stats := storage(), s.requests.Stats()
		front := &telemetry.FrontState{
			Requests: map[string]uint64{}, Refused: map[string]uint64{},
			Disconnected: map[string]uint64{
				"malformed frames": stats.Transport.Malformed, "no handshake": stats.Transport.Handshakes,
				"slow reader": stats.Transport.Slow, "too many clients": stats.Transport.Refused,
			},
			InFlight: stats.InFlight, Waiting: stats.Waiting, Clients: stats.Transport.Open,
		}
		for op, n := range stats.Requests {
			front.Requests[op.String()] = n
		}
		for reason, n := range stats.Refused {
			front.Refused[reason.String()] = n
		}
		state.Front = front
		return state
	}
}
