"""A switch between network namespaces that delays and loses what it carries.

`cable.py plain INTERFACE` makes an interface compute its own checksums and segments, as a cable needs it.
`cable.py INTERFACE... --delay-ms 5 --loss 0.01 --seed 1` carries Ethernet frames between the interfaces.
Lines on standard input say what happens to the cable: `cut INTERFACE` and `heal INTERFACE`; each is answered
with a line on standard output. The end of standard input ends it.

It stands in for the kernel's netem, which not every kernel has.
"""

import argparse
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import sys
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SIOCETHTOOL = 0x8946
# Receive and transmit checksums, scatter-gather, TCP segmentation, generic segmentation and receive.
OFFLOADS = {0x15: "rx", 0x17: "tx", 0x19: "sg", 0x1F: "tso", 0x24: "gso", 0x2C: "gro"}
FRAME_MAX = 65536
# Frames on their way at once; what comes beyond is lost, as in a router.
QUEUE_MAX = 20_000


def plain(interface):
    import ctypes

    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for command in OFFLOADS:
        value = ctypes.create_string_buffer(struct.pack("II", command, 0))
        request = struct.pack("16sP", interface.encode(), ctypes.addressof(value)) + b"\0" * 16
        try:
            fcntl.ioctl(probe, SIOCETHTOOL, request)
        except OSError:
            pass  # This kernel does not have that one to begin with.


class Cable:
    def __init__(self, names, delay, loss, seed):
        self.delay, self.loss, self.random = delay, loss, random.Random(seed)
        self.sockets = {}
        for name in names:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sock.bind((name, 0))
            sock.setblocking(False)
            self.sockets[name] = sock
        self.by_fd = {sock.fileno(): name for name, sock in self.sockets.items()}
        self.places, self.cut, self.waiting, self.number = {}, set(), [], 0
        self.carried = self.lost = 0

    def run(self):
        poll = select.poll()
        for fd in self.by_fd:
            poll.register(fd, select.POLLIN)
        poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
        while True:
            due = self.waiting[0][0] - time.monotonic() if self.waiting else 1.0
            for fd, _ in poll.poll(max(0.0, due * 1000)):
                if fd in self.by_fd:
                    self.take(self.by_fd[fd])
                elif not self.obey():
                    return
            self.deliver()

    def take(self, name):
        for _ in range(256):
            try:
                frame, address = self.sockets[name].recvfrom(FRAME_MAX)
            except OSError:
                return
            if address[2] == PACKET_OUTGOING:
                continue
            self.places[frame[6:12]] = name
            target = self.places.get(frame[:6]) if not frame[0] & 1 else None
            targets = [target] if target else [other for other in self.sockets if other != name]
            for target in targets:
                if target != name:
                    self.carry(name, target, frame)

    def carry(self, source, target, frame):
        cut = source in self.cut or target in self.cut
        if cut or self.random.random() < self.loss or len(self.waiting) >= QUEUE_MAX:
            self.lost += 1
            return
        self.number += 1
        heapq.heappush(self.waiting, (time.monotonic() + self.delay, self.number, target, frame))

    def deliver(self):
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self.waiting)
            try:
                self.sockets[target].send(frame)
                self.carried += 1
            except OSError:
                self.lost += 1

    def obey(self):
        line = os.read(sys.stdin.fileno(), 4096).decode()
        if not line:
            return False
        for words in (line.split() for line in line.splitlines()):
            if words[0] == "cut":
                self.cut.add(words[1])
                # Nothing that is on its way arrives after the cut.
                self.waiting = [w for w in self.waiting if w[2] != words[1]]
                heapq.heapify(self.waiting)
            elif words[0] == "heal":
                self.cut.discard(words[1])
            print(f"{self.carried} {self.lost}", flush=True)
        return True


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        plain(sys.argv[2])
        sys.exit(0)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interfaces", nargs="+")
    parser.add_argument("--delay-ms", type=float, default=5)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    cable = Cable(args.interfaces, args.delay_ms / 1000, args.loss, args.seed)
    print("ready", flush=True)
    cable.run()
