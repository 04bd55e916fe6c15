package main

import (
	"testing"
	"time"
)

func TestAssociationIsEstablishedByFourPacketsAndOnlyWithTheServerOfItsPort(t *testing.T) {
	client := newClient(9003)
	if reply := answer(client.packet(), map[uint16]bool{9005: true}); reply != nil {
		t.Fatalf("answer of the server of another port: %x", reply)
	}
	ports := map[uint16]bool{9003: true}
	for _, state := range []int{echoing, established} {
		reply := answer(client.packet(), ports)
		other := newClient(9003)
		other.receive(reply)
		if other.state != opening {
			t.Fatalf("another client is in state %d", other.state)
		}
		client.receive(reply[:len(reply)-1])
		client.receive(reply)
		if client.state != state {
			t.Fatalf("state %d instead of %d after %x", client.state, state, reply)
		}
	}
	if reply := answer(client.packet(), ports); reply != nil {
		t.Fatalf("answer to ABORT: %x", reply)
	}
}

func TestAbortOfTheServerIsARefusal(t *testing.T) {
	client := newClient(9003)
	client.receive(packet(9003, client.port, client.tag+1, abort, nil))
	if client.state != opening {
		t.Fatal("by an ABORT with another tag")
	}
	client.receive(packet(9003, client.port, client.tag, abort, nil))
	if client.state != refused {
		t.Fatalf("state %d", client.state)
	}
}

func TestPacketsWithAWrongChecksumOrLengthAreIgnored(t *testing.T) {
	whole := newClient(9003).packet()
	ports := map[uint16]bool{9003: true}
	for at := range whole {
		changed := append([]byte{}, whole...)
		changed[at] ^= 1
		if answer(changed, ports) != nil || answer(whole[:at], ports) != nil {
			t.Fatalf("byte %d", at)
		}
	}
}

func TestOnlySCTPIsTakenFromUpstreamsProgram(t *testing.T) {
	peer, timeout, ok := sctpPeer([]string{"connect", "--timeout=3s", "--protocol=sctp", "10.0.0.1:9003"})
	if !ok || peer != "10.0.0.1:9003" || timeout != 3*time.Second {
		t.Fatal(peer, timeout, ok)
	}
	for _, arguments := range [][]string{nil, {"connect", "--protocol=udp", "10.0.0.1:53"}, {"connect", "10.0.0.1:80"}, {"porter"}} {
		if _, _, ok := sctpPeer(arguments); ok {
			t.Fatal(arguments)
		}
	}
	environment := []string{"SERVE_SCTP_PORT_9003=foo", "SERVE_PORT_80=foo", "SERVE_SCTP_PORT_x=foo"}
	if ports := sctpPorts([]string{"porter"}, environment); len(ports) != 1 || !ports[9003] {
		t.Fatal(ports)
	}
	if ports := sctpPorts([]string{"serve-hostname"}, environment); len(ports) != 0 {
		t.Fatal(ports)
	}
}
