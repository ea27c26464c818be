// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"os"
	"testing"
)

// A file is made inside the root, whatever links lead to it.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	for link, target := range map[string]string{"/var-run": "/run", "/up": "../../..", "/loop": "loop"} {
		if err := os.Symlink(target, dir+link); err != nil {
			t.Fatal(err)
		}
	}
	root, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/etc/cdi/x.yaml":        "/etc/cdi/x.yaml",
		"/var-run/cdi/x.yaml":    "/run/cdi/x.yaml",
		"/up/x.yaml":             "/x.yaml",
		"/../../etc/cdi/../x.js": "/etc/x.js",
	} {
		if got, err := root.Place(p); err != nil || got != root.Dir()+want {
			t.Errorf("%s: got %s, %v, want %s", p, got, err, want)
		}
	}
	if got, err := root.Place("/loop/x"); err == nil {
		t.Errorf("links in a ring: got %s", got)
	}
	if got, err := (Root{}).Place("/var/run/x"); err != nil || got != "/var/run/x" {
		t.Errorf("the machine's own root: got %s, %v", got, err)
	}
}
