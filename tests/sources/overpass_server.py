"""A server that answers as Overpass does, out of an extract of OpenStreetMap."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs

import osmium

DATE = "2026-11-01T20:21:22Z"
NEEDED = ('way["building"];', 'relation["building"];', "out body;", ">;", "out skel qt;")


class Extract:
    """All nodes, ways and relations of a file, and those with a building tag."""

    def __init__(self, path):
        self.nodes, self.ways, self.relations, self.buildings = {}, {}, {}, []
        for one in osmium.FileProcessor(path):
            tags = {tag.k: tag.v for tag in one.tags}
            if one.is_node():
                self.nodes[one.id] = (f"{one.lat:.7f}", f"{one.lon:.7f}")
                continue
            if one.is_way():
                self.ways[one.id] = {"nodes": [node.ref for node in one.nodes], "tags": tags}
            else:
                names = {"n": "node", "w": "way", "r": "relation"}
                members = [{"type": names[m.type], "ref": m.ref, "role": m.role} for m in one.members]
                self.relations[one.id] = {"members": members, "tags": tags}
            if "building" in tags:
                self.buildings.append(("way" if one.is_way() else "relation", one.id))
        self.boxes = {key: self._box(key) for key in self.buildings}

    def answer(self, body):
        """Return status, media type and body for a query in the body of a form."""
        text = parse_qs(body)["data"][0]
        south, west, north, east = map(float, re.search(r"\[bbox:([^\]]+)\]", text)[1].split(","))
        if not all(part in text for part in NEEDED) or "[out:json]" not in text:
            return 400, "text/html", b"<html><body><p><strong>Error</strong>: parse error</p></body></html>"
        first, ways, nodes = [], {}, {}
        for key in self.buildings:
            box = self.boxes[key]
            if box and box[0] <= east and west <= box[2] and box[1] <= north and south <= box[3]:
                kind, number = key
                first.append({"type": kind, "id": number} | (self.ways if kind == "way" else self.relations)[number])
                for way in [number] if kind == "way" else self._ways_of(number):
                    if kind == "relation":
                        ways[way] = {"type": "way", "id": way, "nodes": self.ways[way]["nodes"]}
                    for node in self.ways[way]["nodes"]:
                        lat, lon = map(float, self.nodes[node])
                        nodes[node] = {"type": "node", "id": node, "lat": lat, "lon": lon}
        elements = [*first, *nodes.values(), *ways.values()]
        told = {"version": 0.6, "osm3s": {"timestamp_osm_base": DATE, "copyright": "ODbL"}, "elements": elements}
        return 200, "application/json", json.dumps(told).encode()

    def _ways_of(self, number):
        """Return the ways of a relation which the extract has, as far as it has all their nodes."""
        return [m["ref"] for m in self.relations[number]["members"] if m["type"] == "way" and m["ref"] in self.ways]

    def _box(self, key):
        kind, number = key
        ways = [number] if kind == "way" else self._ways_of(number)
        places = [self.nodes[node] for way in ways for node in self.ways[way]["nodes"] if node in self.nodes]
        if not places or any(node not in self.nodes for way in ways for node in self.ways[way]["nodes"]):
            return None
        rows, columns = [[float(place[i]) for place in places] for i in (0, 1)]
        return min(columns), min(rows), max(columns), max(rows)


def complete(extract):
    """Leave out of relations the ways that the extract does not have: a server has all."""
    for relation in extract.relations.values():
        relation["members"] = [m for m in relation["members"] if m["type"] != "way" or m["ref"] in extract.ways]
    return extract
