// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pod is one container in a pod of its own, as kubelet asks for it.
type pod struct {
	handler     string // of the RuntimeClass
	image       string
	devices     []string // CDI names, as device plugins and DRA give them
	annotations map[string]string
	env         map[string]string
	command     []string
}

// message is a protobuf message that is being written.
type message []byte

func (m message) bytes(field int, v []byte) message {
	m = binary.AppendUvarint(m, uint64(field)<<3|2)
	return append(binary.AppendUvarint(m, uint64(len(v))), v...)
}

func (m message) str(field int, v string) message { return m.bytes(field, []byte(v)) }

func (m message) number(field int, v uint64) message {
	return binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3), v)
}

func (m message) pairs(field int, v map[string]string) message {
	for k, v := range v {
		m = m.bytes(field, message{}.str(1, k).str(2, v))
	}
	return m
}

// field finds a field of a message: its bytes, or its number.
func field(m []byte, want uint64) (data []byte, number uint64) {
	for len(m) > 0 {
		tag, n := binary.Uvarint(m)
		if n <= 0 {
			return
		}
		m = m[n:]
		v, n := binary.Uvarint(m)
		if n <= 0 {
			return
		}
		m = m[n:]
		if tag&7 != 2 {
			if tag>>3 == want {
				number = v
			}
			continue
		}
		if uint64(len(m)) < v {
			return
		}
		if tag>>3 == want {
			data = m[:v]
		}
		m = m[v:]
	}
	return
}

// criClient speaks to a CRI socket: gRPC is a POST of HTTP/2 with five bytes
// before the message.
type criClient struct{ http.Client }

func newCRI(socket string) *criClient {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &criClient{http.Client{Timeout: timeLimit, Transport: &http.Transport{Protocols: &p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}}
}

func (c *criClient) call(method string, m message) ([]byte, error) {
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
	req, err := http.NewRequest(http.MethodPost, "http://cri/runtime.v1.RuntimeService/"+method, bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	r, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{r.Header, r.Trailer} {
		if s := h.Get("Grpc-Status"); s != "" && s != "0" {
			text, _ := url.PathUnescape(h.Get("Grpc-Message"))
			return nil, fmt.Errorf("%s: %s", method, text)
		}
	}
	if len(body) < 5 {
		return nil, fmt.Errorf("%s: HTTP %s and no message", method, r.Status)
	}
	return body[5:], nil
}

// cri runs a pod to its end and gives what its container printed.
func (b *box) cri(p pod) result {
	r := result{command: fmt.Sprintf("pod %+v", p)}
	out, code, err := b.runPod(p)
	r.out, r.code = out, code
	if err != nil {
		r.out, r.code = out+err.Error(), 125
	}
	return r
}

func (b *box) runPod(p pod) (out string, code int, err error) {
	text, err := os.ReadFile(filepath.Join(b.lab.cache, b.profile, "box.pid"))
	if err != nil {
		return "", 0, err
	}
	c := newCRI("/proc/" + strings.Fields(string(text))[0] + "/root/run/containerd/containerd.sock")
	defer c.CloseIdleConnections()
	id, logs := fmt.Sprintf("t%d", time.Now().UnixNano()), "/var/log/pods"
	node := message{}.number(1, 2) // NamespaceOption: the node's network
	sandbox := message{}.bytes(1, message{}.str(1, id).str(2, id).str(3, "default")).str(3, logs).
		bytes(8, message{}.bytes(2, message{}.bytes(1, node)))
	answer, err := c.call("RunPodSandbox", message{}.bytes(1, sandbox).str(2, p.handler))
	if err != nil {
		return "", 0, err
	}
	of, _ := field(answer, 1)
	defer func() {
		for _, method := range []string{"StopPodSandbox", "RemovePodSandbox"} {
			if _, e := c.call(method, message{}.bytes(1, of)); e != nil {
				err = errors.Join(err, e)
			}
		}
	}()
	config := message{}.bytes(1, message{}.str(1, "c")).bytes(2, message{}.str(1, p.image))
	for _, a := range p.command {
		config = config.str(3, a)
	}
	config = config.pairs(6, p.env).pairs(10, p.annotations).str(11, id+".log").
		bytes(15, message{}.bytes(2, message{}.bytes(3, node)))
	for _, d := range p.devices {
		config = config.bytes(17, message{}.str(1, d))
	}
	if answer, err = c.call("CreateContainer", message{}.bytes(1, of).bytes(2, config).bytes(3, sandbox)); err != nil {
		return "", 0, err
	}
	container, _ := field(answer, 1)
	if _, err = c.call("StartContainer", message{}.bytes(1, container)); err != nil {
		return "", 0, err
	}
	for end := time.Now().Add(timeLimit); ; time.Sleep(50 * time.Millisecond) {
		if answer, err = c.call("ContainerStatus", message{}.bytes(1, container)); err != nil {
			return "", 0, err
		}
		status, _ := field(answer, 1)
		if _, state := field(status, 3); state == 2 { // exited
			_, exit := field(status, 7)
			code = int(exit)
			break
		}
		if time.Now().After(end) {
			return "", 0, errors.New("the container did not end")
		}
	}
	log, err := os.ReadFile(filepath.Join(b.root, logs, id+".log"))
	if err != nil {
		return "", 0, err
	}
	for line := range strings.Lines(string(log)) {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 { // time, stream, whole or part, text
			out += f[3]
		}
	}
	return out, code, nil
}
