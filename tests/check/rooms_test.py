#!/usr/bin/env python3
"""Checks the includes of the product against docs/rooms.md: a room includes itself, rooms of its top folder that the page
lists before it, and what the page's table of crossings names. Every folder with sources must be on the page, and every
room on the page must exist (rows that say "not there yet" may be absent).
"""
import os
import re
import sys

REPO = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))
TOPS = ("sentry", "gofer", "oci", "runtime")
SOURCES = (".cc", ".h", ".S", ".def", ".c")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def page_tables(text):
    """The page's rooms in order, those that may be absent, and the crossings as (who, what) pairs."""
    rooms, absent, crossings = [], set(), set()
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
        if section == "Crossings":
            pair = re.match(r"\| `([^`]+)` \| `([^`]+)` \|$", line)
            if pair:
                crossings.add(pair.groups())
        elif section == "The order":
            row = re.match(r"\| `([^`]+)` \| (.*) \|$", line)
            if row:
                rooms.append(row[1])
                if "(not there yet)" in row[2]:
                    absent.add(row[1])
    return rooms, absent, crossings


def allowed(room, header, place, crossings):
    """None, or why `room` may not include `header`."""
    there = os.path.dirname(header)
    if there == room:
        return None
    for who, what in crossings:
        stands_for_all = who in ("gofer", "oci", "runtime")
        mine = room == who or (stands_for_all and room.startswith(who + "/"))
        theirs = header == what or there == what or (not what.endswith(".h") and there.startswith(what + "/"))
        if mine and theirs:
            return None
    if there not in place:
        return "%s is no room of docs/rooms.md" % (there or "the top folder")
    if there.split("/")[0] != room.split("/")[0]:
        return "the crossing from %s to %s is not in docs/rooms.md" % (room, there)
    if place[there] > place[room]:
        return "%s stands below %s in docs/rooms.md" % (there, room)
    return None


def main():
    with open(os.path.join(REPO, "docs/rooms.md")) as f:
        rooms, absent, crossings = page_tables(f.read())
    place = {room: i for i, room in enumerate(rooms)}
    problems, found, files = [], set(), 0
    for top in TOPS:
        for directory, _, names in os.walk(os.path.join(REPO, top)):
            room = os.path.relpath(directory, REPO)
            sources = sorted(n for n in names if n.endswith(SOURCES))
            if not sources:
                continue
            found.add(room)
            if room not in place:
                problems.append("%s: not in docs/rooms.md" % room)
                continue
            for name in sources:
                files += 1
                with open(os.path.join(directory, name), errors="replace") as f:
                    text = f.read()
                for match in INCLUDE.finditer(text):
                    why = allowed(room, match[1], place, crossings)
                    if why:
                        line = text.count("\n", 0, match.start(1)) + 1
                        problems.append("%s/%s:%d: includes %s: %s" % (room, name, line, match[1], why))
    problems += ["docs/rooms.md: %s does not exist" % room for room in rooms if room not in found | absent]
    if len(rooms) != len(place):
        problems.append("docs/rooms.md: a room is listed twice")
    if not rooms or not crossings or files == 0:
        problems.append("docs/rooms.md: its tables could not be read")
    print("\n".join(problems + ["%d files, %d rooms, %d problems" % (files, len(found), len(problems))]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
