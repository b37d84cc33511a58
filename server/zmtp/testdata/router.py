"""A ROUTER of libzmq that echoes until stdin ends; prints its endpoint first."""

import sys
import zmq

context = zmq.Context()
s = context.socket(zmq.ROUTER)
s.linger = 0
s.router_mandatory = True
s.heartbeat_ivl = 20
s.heartbeat_timeout = 1000
s.bind("tcp://127.0.0.1:*")
print(s.last_endpoint.decode(), flush=True)
poller = zmq.Poller()
poller.register(s, zmq.POLLIN)
poller.register(sys.stdin.fileno(), zmq.POLLIN)
while True:
    ready = dict(poller.poll())
    if s in ready:
        s.send_multipart(s.recv_multipart())
    if sys.stdin.fileno() in ready:
        break
s.close()
context.destroy(linger=0)
