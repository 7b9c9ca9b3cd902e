"""Nodes as processes, and what can be asked of them, for the demonstration and the figures of the mesh.

Waits are bounded by PATIENCE: what takes longer ends the script with a sentence that says what was waited for.
"""

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

PATIENCE = 60.0


class Failed(Exception):
    """What was to be shown did not happen."""


def wait_until(what, condition, every=0.01, patience=PATIENCE):
    """Waits until `condition()` is true; returns how long that took, in seconds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > patience:
            raise Failed(f"waited {patience:.0f} s in vain until {what}")
        time.sleep(every)
    return time.monotonic() - started


class Node:
    """One process of the binary, in a network namespace or in none."""

    def __init__(self, binary, directory, name, args, namespace=None, host="127.0.0.1"):
        self.command = ["ip", "netns", "exec", namespace] if namespace else []
        self.command += [binary, f"--data-path={directory}/{name}", *args]
        self.name, self.log_path, self.host, self.process = name, f"{directory}/{name}.log", host, None
        self.tcp = self.http_port = self.gossip = None
        self.connection = None

    def start(self, *more):
        log = open(self.log_path, "ab")
        begun = log.tell()
        self.process = subprocess.Popen([*self.command, *more], stdin=subprocess.DEVNULL, stdout=log,
                                        stderr=log, env={**os.environ, "NO_COLOR": "1"})
        log.close()
        said = ""

        def serves():
            nonlocal said
            with open(self.log_path, "rb") as lines:
                lines.seek(begun)
                said = lines.read().decode(errors="replace")
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with {self.process.returncode} instead of serving:\n{said}")
            return re.search(r"^data: ", said, re.M)

        wait_until(f"{self.name} serves", serves)
        port = lambda word: int(re.search(rf"^{word}: listening on \S+:(\d+)", said, re.M).group(1))
        self.tcp, self.http_port, self.gossip = port("TCP"), port("HTTP"), port("gossip")
        return self

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()
        self.connection = None

    def stop(self):
        if self.process and self.process.poll() is None:
            self.kill()

    def get(self, target):
        """Status and body of a GET, over a connection that stays; None when the node does not answer."""
        for _ in range(2):
            kept = self.connection is not None
            try:
                if not kept:
                    self.connection = http.client.HTTPConnection(self.host, self.http_port, timeout=2)
                self.connection.request("GET", target)
                reply = self.connection.getresponse()
                return reply.status, reply.read().decode()
            except (OSError, http.client.HTTPException):
                self.connection = None
                if not kept:
                    return None
        return None

    def post(self, target):
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=10)
        connection.request("POST", target)
        reply = connection.getresponse()
        if reply.status != 200:
            raise Failed(f"POST {target} on {self.name}: {reply.status} {reply.read().decode()}")
        connection.close()

    def json(self, target):
        reply = self.get(target)
        return json.loads(reply[1]) if reply and reply[0] == 200 else None

    def found(self, topic):
        """Who holds a topic, as (address, port) pairs; None if nobody knows it."""
        found = self.json(f"/lookup?topic={topic}")
        if found is None:
            return None
        return {(producer["broadcast_address"], producer["tcp_port"]) for producer in found["producers"]}

    def channels(self, topic):
        return set((self.json(f"/channels?topic={topic}") or {"channels": []})["channels"])

    def alive(self):
        members = self.json("/mesh/members")
        return {row["id"] for row in members["members"] if row["state"] == "alive"} if members else set()

    def backlog(self, topic):
        """What the channels of a topic have not got rid of yet, by channel."""
        stats = self.json(f"/stats?format=json&topic={topic}&include_clients=false")
        topics = stats["topics"] if stats else []
        return {
            channel["channel_name"]: channel["depth"] + channel["in_flight_count"] + channel["deferred_count"]
            for channel in (topics[0]["channels"] if topics else [])
        }


class Cable:
    """The switch between network namespaces (`cable.py`): namespace PREFIX-N is at interface wN."""

    def __init__(self, prefix, ends, delay_ms, loss):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cable.py")
        command = ["ip", "netns", "exec", f"{prefix}-wire", sys.executable, script, *(f"w{end}" for end in ends)]
        command += ["--delay-ms", str(delay_ms), "--loss", str(loss)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def tell(self, order):
        """Gives an order; returns how many frames were carried, and how many were lost, so far."""
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return [int(number) for number in self.process.stdout.readline().split()]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Publisher:
    """A connection that publishes and waits for each OK."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"  V2")

    def publish(self, topic, body):
        self.socket.sendall(b"PUB %s\n" % topic.encode() + struct.pack(">I", len(body)) + body)
        while True:
            size, kind = struct.unpack(">II", self.exactly(8))
            reply = self.exactly(size - 4)
            if reply == b"_heartbeat_":
                self.socket.sendall(b"NOP\n")
            elif kind == 0 and reply == b"OK":
                return
            else:
                raise OSError(f"{reply!r} instead of OK")

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise OSError("the node closed the connection")
            data += more
        return data


def lines(path):
    """The whole lines of a file that is being written; none while it does not exist."""
    try:
        with open(path) as file:
            # The last line may be half written.
            return file.read().split("\n")[:-1]
    except FileNotFoundError:
        return []


def spread(seconds):
    """Median, 99th percentile and largest of some times, as text in milliseconds."""
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
    return f"p50 {at(0.5):7.1f} ms   p99 {at(0.99):7.1f} ms   max {ordered[-1] * 1000:7.1f} ms   n {len(ordered)}"
