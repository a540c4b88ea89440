package cache

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestPlaces(t *testing.T) {
	home, temp := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("TMPDIR", temp)
	ours := filepath.Join(temp, "schwimmbad-go-"+strconv.Itoa(os.Getuid()))
	for name, c := range map[string]struct {
		cache, xdg, home string
		want             []string
	}{
		"home":           {"", "", home, []string{home + "/.cache/schwimmbad-go", ours}},
		"xdg":            {"", "/xdg", home, []string{"/xdg/schwimmbad-go", home + "/.cache/schwimmbad-go", ours}},
		"relative xdg":   {"", "xdg", home, []string{home + "/.cache/schwimmbad-go", ours}},
		"no home":        {"", "", "", []string{ours}},
		"named":          {"/named", "/xdg", home, []string{"/named"}},
		"named relative": {"named", "", home, []string{filepath.Join(working(t), "named")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(Variable, c.cache)
			t.Setenv("XDG_CACHE_HOME", c.xdg)
			t.Setenv("HOME", c.home)
			var got []string
			for _, place := range Places() {
				got = append(got, place.Dir)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("%v, want %v", got, c.want)
				}
			}
		})
	}
}

func working(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
