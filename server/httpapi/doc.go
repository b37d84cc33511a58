// Package httpapi is the HTTP front-end of the server: health, status,
// configuration, the cache as an administrator sees it, quotas, metrics, and the
// recording of traces. It is not on the data path.
//
// Paths, bodies and statuses are those of LMCache 0.5.6, with the paths of earlier
// releases beside them; /trace and what is below it is ours. Nobody is
// authenticated, as in LMCache: who reaches the port may use it. Requests that a
// browser sends for another site's page are refused.
//
// Source: reference server-protocol.md, section 4; observability.md, section 7.
package httpapi
