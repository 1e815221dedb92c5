#!/usr/bin/env python3
"""Asks a pipeline over gRPC, with nothing but grpcio: python3 -m pip install grpcio

    examples/generate.py 127.0.0.1:8080 'The capital of France is'      an answer, token by token
    examples/generate.py 127.0.0.1:8080 --run 1,2,3                     token ids through stage 0 alone

The messages are those of proto/stageline/v1/inference.proto. A program that has protobuf too would generate its classes from
that file; here the few fields that are needed are written and read by hand, to show that there is no more to it.
"""
import argparse
import struct
import sys

import grpc

SERVICE = "/stageline.v1.Inference/"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """A field of a message: an int as a varint, text, bytes or a message (bytes) with its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(message):
    """The fields of a message as (number, value) pairs, in its order."""
    at = 0

    def read_varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = read_varint()
        kind = key & 7
        if kind == 0:
            value = read_varint()
        else:
            size = {1: 8, 5: 4}.get(kind) or read_varint()
            value, at = message[at:at + size], at + size
        yield key >> 3, value


def generate(channel, prompt, max_tokens, timeout):
    """Prints an answer as it comes."""
    call = channel.unary_stream(SERVICE + "Generate", lambda m: m, lambda m: m)
    for event in call(field(1, prompt) + field(4, max_tokens), timeout=timeout):
        for what, message in fields(event):
            values = dict(fields(message))
            if what == 1:
                print(f"[{values.get(1, 0)} tokens of prompt]", file=sys.stderr)
            elif what == 2:
                print(values.get(3, b"").decode(), end="", flush=True)
            elif what == 3:
                print(values.get(2, b"").decode())
                reason = {1: "stop", 2: "length"}[values[1]]
                print(f"[{values.get(3, 0)} tokens, ended by {reason}]", file=sys.stderr)


def run(channel, ids, timeout):
    """Runs token ids through the layers of stage 0, and prints the shape of what comes out."""
    call = channel.unary_unary(SERVICE + "Run", lambda m: m, lambda m: m)
    data = struct.pack(f"<{len(ids)}I", *ids)
    tensor = field(1, 2) + field(2, len(ids)) + field(3, 1) + field(4, data)
    output = dict(fields(dict(fields(call(field(1, tensor), timeout=timeout)))[1]))
    rows, columns = output[2], output[3]
    row = struct.unpack(f"<{columns}f", output[4][:columns * 4]) if output[1] == 1 else output[4]
    print(f"[{rows}, {columns}]: {row[:4]} ...")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host and port of the stage, such as 127.0.0.1:8080")
    parser.add_argument("prompt", nargs="?", help="text to go on from")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--run", metavar="IDS", help="run these token ids (such as 1,2,3) through stage 0 alone")
    parser.add_argument("--timeout", type=float, default=60, help="seconds until the call is given up, on every stage")
    options = parser.parse_args()
    if (options.prompt is None) == (options.run is None):
        parser.error("give a prompt, or --run with token ids")
    with grpc.insecure_channel(options.address) as channel:
        try:
            if options.run:
                run(channel, [int(number) for number in options.run.split(",")], options.timeout)
            else:
                generate(channel, options.prompt, options.max_tokens, options.timeout)
        except grpc.RpcError as error:
            sys.exit(f"error: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
