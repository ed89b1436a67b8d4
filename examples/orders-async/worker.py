#!/usr/bin/env python3
"""Answers orders, slowly.

Reads and writes with the verbs of tidegate's command line, so it works on the built-in log, beside the running gateway, and on Kafka.
Any client of Kafka does as well: what matters is the headers of the records.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE.parents[1] / "target" / "release" / "tidegate"
COPIED = ("tidegate-correlation-id", "traceparent")

THOUGHT_SECONDS = 3

def answer(request):
    """The reply to an order, after some thought."""
    time.sleep(THOUGHT_SECONDS)
    body = {"id": request["headers"].get("order-id"), "state": "shipped"}
    return {"key": request["key"], "value": json.dumps(body), "headers": {":status": "200", "content-type": "application/json"}}


class Topics:
    """Topics of the cluster that the configuration names."""

    def __init__(self, tidegate, config):
        self.tidegate, self.config, self.writers, self.children = tidegate, config, {}, []

    def verb(self, verb, *arguments, **pipes):
        command = [self.tidegate, "topic", verb, self.config, *arguments]
        child = subprocess.Popen(command, text=True, encoding="utf-8", **pipes)
        self.children.append(child)
        return child

    def read(self, topic, *options):
        for line in self.verb("consume", topic, *options, stdout=subprocess.PIPE).stdout:
            record = json.loads(line)
            if "error" not in record:
                record["headers"] = {header["name"]: header.get("value") for header in record.get("headers", [])}
                yield record

    def write(self, topic, record):
        if topic not in self.writers:
            # It prints where each record is.
            self.writers[topic] = self.verb("produce", topic, stdin=subprocess.PIPE, stdout=sys.stderr)
        headers = [{"name": name, "value": value} for name, value in record["headers"].items()]
        self.writers[topic].stdin.write(json.dumps({**record, "headers": headers}) + "\n")
        self.writers[topic].stdin.flush()

    def close(self):
        for writer in self.writers.values():
            writer.stdin.close()
            writer.wait()
        for child in self.children:
            child.terminate()
            child.wait()


def work(topics, requests, replies):
    # What was answered before this start is not answered again: the topics are all that is to be remembered.
    answered = {reply["headers"].get(COPIED[0]) for reply in topics.read(replies)}
    print(f"{len(answered)} answered before; waiting for requests", flush=True)
    for request in topics.read(requests, "--follow"):
        headers = request["headers"]
        identity, reply_to = headers.get(COPIED[0]), headers.get("tidegate-reply-to")
        if identity and reply_to and identity not in answered:
            reply = answer(request)
            reply["headers"].update({name: headers[name] for name in COPIED if name in headers})
            topics.write(reply_to, reply)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tidegate", default=str(BUILT) if BUILT.exists() else "tidegate", help="the binary")
    options.add_argument("--config", default=str(HERE / "tidegate.yaml"))
    options.add_argument("--requests", default="slow-orders-requests")
    options.add_argument("--replies", default="slow-orders-replies")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    topics = Topics(given.tidegate, given.config)
    try:
        work(topics, given.requests, given.replies)
        sys.exit("the requests have ended: is the gateway running?")
    except KeyboardInterrupt:
        pass
    finally:
        topics.close()


if __name__ == "__main__":
    main()
