"""DEALERs of libzmq against an echo; prints a line that begins with ok for each thing that holds."""

import sys
import zmq

endpoint = sys.argv[1]
context = zmq.Context()


def dealer(**options):
    s = context.socket(zmq.DEALER)
    s.linger = 0
    s.rcvtimeo = 20000
    for name, value in options.items():
        setattr(s, name, value)
    s.connect(endpoint)
    return s


def check(name, good):
    print("ok" if good else "FAIL", name, flush=True)


s = dealer()
for name, frames in {
    "two frames": [b"\x00", b"\x18"],
    "empty frames": [b"", b"", b"x"],
    "sizes at the limits": [bytes(255), bytes(256), bytes(65536)],
    "a lookup of 8192 tokens": [b"\x00", b"\x08", bytes(24 << 10), b"\x01"],
    "48 MiB": [b"\x00", bytes(48 << 20)],
}.items():
    s.send_multipart(frames)
    check(name, s.recv_multipart() == frames)

n, sent, got = 20000, 0, []
while len(got) < n:
    while sent < n and sent - len(got) < 500:
        s.send_multipart([b"%d" % sent, b"op"])
        sent += 1
    got.append(int(s.recv_multipart()[0]))
check("pipelined in order", got == list(range(n)))
s.close()

s = dealer(heartbeat_ivl=20, heartbeat_timeout=1000, heartbeat_ttl=1000)
s.send(b"x")
s.recv()
monitor = s.get_monitor_socket(zmq.EVENT_DISCONNECTED)
check("stays through heartbeats", monitor.poll(1500) == 0)
s.send(b"y")
check("answers after heartbeats", s.recv() == b"y")
s.disable_monitor()
s.close()

s = dealer(routing_id=b"named")
s.send(b"x")
check("a client with a routing id", s.recv() == b"x")
s.close()

s = context.socket(zmq.REQ)
s.linger = 0
s.rcvtimeo = 20000
s.connect(endpoint)
s.send(b"x")
check("a REQ", s.recv() == b"x")
s.close()

good = 0
for i in range(200):
    s = dealer()
    s.send_multipart([b"%d" % i, b"op"])
    good += s.recv_multipart()[0] == b"%d" % i
    s.close()
check("200 connections, one after the other", good == 200)

many = [dealer() for _ in range(64)]
for i, s in enumerate(many):
    s.send(b"%d" % i)
check("64 connections at once", all(s.recv() == b"%d" % i for i, s in enumerate(many)))
for s in many:
    s.close()
context.destroy(linger=0)
