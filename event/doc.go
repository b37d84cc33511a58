// Package event is the live side of the storage manager: what happened, for
// metrics, spans and logs. A recording does not depend on it (package trace
// does that): the bus drops events when its subscribers cannot keep up, and
// counts them.
//
// Publishing copies the event into a bounded queue: it never waits, takes no
// lock and allocates nothing once the queue is warm. One goroutine takes events
// out in order and hands each to its subscribers.
//
// Source: reference observability.md, sections 1 and 2.
package event
