package main

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
)

// Types of chunks (RFC 9260 section 3.2).
const (
	initiation    = 1
	initiationAck = 2
	abort         = 6
	cookieEcho    = 10
	cookieAck     = 11
)

const (
	// headerLength is the length of ports, verification tag and checksum.
	headerLength = 12
	// initLength is the length of a chunk INIT or INIT ACK without parameters.
	initLength = 20
	// stateCookie is the type of the parameter that a client returns.
	stateCookie = 7
	// cookieLength is the length of the cookie: the initiate tag of the client.
	cookieLength = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// packet returns a packet with one chunk.
func packet(from, to uint16, tag uint32, kind byte, value []byte) []byte {
	p := make([]byte, headerLength, headerLength+4+len(value))
	binary.BigEndian.PutUint16(p[0:], from)
	binary.BigEndian.PutUint16(p[2:], to)
	binary.BigEndian.PutUint32(p[4:], tag)
	p = append(p, kind, 0)
	p = binary.BigEndian.AppendUint16(p, uint16(4+len(value)))
	p = append(p, value...)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, castagnoli))
	return p
}

// received is the first chunk of a packet.
type received struct {
	from, to uint16
	tag      uint32
	kind     byte
	value    []byte
}

// read returns false for a packet that is truncated or has a wrong checksum.
func read(p []byte) (r received, ok bool) {
	if len(p) < headerLength+4 {
		return r, false
	}
	sum := binary.LittleEndian.Uint32(p[8:])
	zeroed := append([]byte{}, p...)
	clear(zeroed[8:headerLength])
	length := int(binary.BigEndian.Uint16(p[headerLength+2:]))
	if sum != crc32.Checksum(zeroed, castagnoli) || length < 4 || headerLength+length > len(p) {
		return r, false
	}
	return received{
		from:  binary.BigEndian.Uint16(p[0:]),
		to:    binary.BigEndian.Uint16(p[2:]),
		tag:   binary.BigEndian.Uint32(p[4:]),
		kind:  p[headerLength],
		value: p[headerLength+4 : headerLength+length],
	}, true
}

// initValue returns the fields of INIT and INIT ACK: tag, window, one stream in each direction, first number.
func initValue(tag uint32) []byte {
	value := binary.BigEndian.AppendUint32(nil, tag)
	value = append(value, 0, 1, 0, 0, 0, 1, 0, 1)
	return binary.BigEndian.AppendUint32(value, 1)
}

// answer returns the reply of a server of these ports, or nil. The server keeps no state: it is in the cookie.
func answer(p []byte, ports map[uint16]bool) []byte {
	r, ok := read(p)
	if !ok || !ports[r.to] {
		return nil
	}
	switch {
	case r.kind == initiation && len(r.value) >= initLength-4:
		tag := r.value[:4]
		value := initValue(rand.Uint32() | 1)
		value = binary.BigEndian.AppendUint16(value, stateCookie)
		value = binary.BigEndian.AppendUint16(value, 4+cookieLength)
		value = append(value, tag...)
		return packet(r.to, r.from, binary.BigEndian.Uint32(tag), initiationAck, value)
	case r.kind == cookieEcho && len(r.value) == cookieLength:
		return packet(r.to, r.from, binary.BigEndian.Uint32(r.value), cookieAck, nil)
	}
	return nil
}

// States of a client.
const (
	opening = iota
	echoing
	established
	refused
)

// client is one end of an association that is set up.
type client struct {
	port, peer    uint16
	tag, peersTag uint32
	cookie        []byte
	state         int
}

func newClient(peer uint16) *client {
	const first, count = 49152, 16384
	return &client{port: first + uint16(rand.IntN(count)), peer: peer, tag: rand.Uint32() | 1}
}

// packet returns what the client sends in its state.
func (c *client) packet() []byte {
	switch c.state {
	case opening:
		return packet(c.port, c.peer, 0, initiation, initValue(c.tag))
	case echoing:
		return packet(c.port, c.peer, c.peersTag, cookieEcho, c.cookie)
	default:
		return packet(c.port, c.peer, c.peersTag, abort, nil)
	}
}

// receive changes the state by a packet, if it is one of the server to this client.
func (c *client) receive(p []byte) {
	r, ok := read(p)
	if !ok || r.from != c.peer || r.to != c.port || r.tag != c.tag {
		return
	}
	switch {
	case r.kind == abort:
		c.state = refused
	case r.kind == initiationAck && c.state == opening && len(r.value) >= initLength-4:
		c.peersTag = binary.BigEndian.Uint32(r.value)
		if cookie, ok := cookieOf(r.value[initLength-4:]); ok {
			c.cookie = append([]byte{}, cookie...)
			c.state = echoing
		}
	case r.kind == cookieAck && c.state == echoing:
		c.state = established
	}
}

// cookieOf returns the cookie among the parameters of an INIT ACK.
func cookieOf(parameters []byte) ([]byte, bool) {
	for len(parameters) >= 4 {
		length := int(binary.BigEndian.Uint16(parameters[2:]))
		if length < 4 || length > len(parameters) {
			return nil, false
		}
		if binary.BigEndian.Uint16(parameters) == stateCookie {
			return parameters[4:length], true
		}
		// To a multiple of 4 bytes.
		parameters = parameters[min((length+3)&^3, len(parameters)):]
	}
	return nil, false
}
