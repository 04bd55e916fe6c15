// agnhost in the pods of the suite: upstream's program, with SCTP by raw sockets where the kernel has none.
//
// On such a kernel, upstream's servers of SCTP ports exit, and its client reports an error that is neither a connection
// nor a denied one. Here, both set up the association themselves. The packets are real, so that policies admit or drop
// them; only the end points are not the kernel's.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// program is upstream's agnhost.
	program = "/agnhost-program"
	// portVariable, followed by a port, is a variable of the environment for which `porter` serves that port.
	portVariable = "SERVE_SCTP_PORT_"
	// protocol is IPPROTO_SCTP.
	protocol = 132
	// interval is the time after which a packet without answer is sent again.
	interval = 300 * time.Millisecond
)

func main() {
	if !kernelHasSCTP() {
		if peer, timeout, ok := sctpPeer(os.Args[1:]); ok {
			os.Exit(connect(peer, timeout))
		}
		if ports := sctpPorts(os.Args[1:], os.Environ()); len(ports) > 0 {
			fmt.Fprintln(os.Stderr, serve(ports))
			os.Exit(1)
		}
	}
	arguments := append([]string{program}, os.Args[1:]...)
	fmt.Fprintln(os.Stderr, program, syscall.Exec(program, arguments, os.Environ()))
	os.Exit(1)
}

// kernelHasSCTP loads the kernel's module as well, if there is one.
func kernelHasSCTP() bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, protocol)
	if err == nil {
		syscall.Close(fd)
	}
	return err != syscall.EPROTONOSUPPORT && err != syscall.ESOCKTNOSUPPORT
}

// sctpPeer returns the peer and the timeout of `connect --timeout=3s --protocol=sctp 10.0.0.1:9003`.
func sctpPeer(arguments []string) (peer string, timeout time.Duration, ok bool) {
	if len(arguments) == 0 || arguments[0] != "connect" {
		return "", 0, false
	}
	for _, argument := range arguments[1:] {
		switch name, value, _ := strings.Cut(argument, "="); name {
		case "--protocol":
			ok = value == "sctp"
		case "--timeout":
			timeout, _ = time.ParseDuration(value)
		default:
			peer = argument
		}
	}
	return peer, timeout, ok
}

// sctpPorts returns the SCTP ports that `porter` serves with an environment.
func sctpPorts(arguments, environment []string) map[uint16]bool {
	ports := map[uint16]bool{}
	if len(arguments) == 0 || arguments[0] != "porter" {
		return ports
	}
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		if port, ok := strings.CutPrefix(name, portVariable); ok {
			if port, err := strconv.ParseUint(port, 10, 16); err == nil {
				ports[uint16(port)] = true
			}
		}
	}
	return ports
}

// serve answers clients of these ports until an error.
func serve(ports map[uint16]bool) error {
	socket, err := net.ListenIP("ip4:"+strconv.Itoa(protocol), nil)
	if err != nil {
		return err
	}
	buffer := make([]byte, 2048)
	for {
		// Without the IP header.
		length, peer, err := socket.ReadFromIP(buffer)
		if err != nil {
			return err
		}
		if reply := answer(buffer[:length], ports); reply != nil {
			// To a client that has ended, for example. It repeats its packet if not.
			_, _ = socket.WriteToIP(reply, peer)
		}
	}
}

// connect sets up an association and aborts it. It returns the exit code, and prints what upstream's client prints.
func connect(peer string, timeout time.Duration) int {
	fail := func(format string, values ...any) int {
		fmt.Fprintf(os.Stderr, format+"\n", values...)
		return 1
	}
	host, number, err := net.SplitHostPort(peer)
	port, invalid := strconv.ParseUint(number, 10, 16)
	address, unknown := net.ResolveIPAddr("ip4", host)
	if err != nil || invalid != nil || unknown != nil {
		return fail("DNS: %s", peer)
	}
	socket, err := net.DialIP("ip4:"+strconv.Itoa(protocol), nil, address)
	if err != nil {
		return fail("OTHER: %v", err)
	}
	client := newClient(uint16(port))
	end := time.Now().Add(timeout)
	buffer := make([]byte, 2048)
	for time.Now().Before(end) {
		if _, err := socket.Write(client.packet()); err != nil {
			return fail("OTHER: %v", err)
		}
		again := time.Now().Add(interval)
		if again.After(end) {
			again = end
		}
		if err := socket.SetReadDeadline(again); err != nil {
			return fail("OTHER: %v", err)
		}
		for {
			length, _, err := socket.ReadFromIP(buffer)
			if timedOut, ok := err.(net.Error); ok && timedOut.Timeout() {
				break
			}
			if err != nil {
				// An ICMP error: the host has no such server.
				return fail("REFUSED")
			}
			before := client.state
			client.receive(buffer[:length])
			switch client.state {
			case refused:
				return fail("REFUSED")
			case established:
				_, _ = socket.Write(client.packet())
				return 0
			}
			if client.state != before {
				break
			}
		}
	}
	return fail("TIMEOUT")
}
