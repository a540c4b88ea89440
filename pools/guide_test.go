package pools_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheGuideIsExamples: every piece of Go in docs/GO.md is part of an example, which go test runs.
func TestTheGuideIsExamples(t *testing.T) {
	guide, err := os.ReadFile("../docs/GO.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("example*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var examples strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		examples.Write(text)
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllSubmatch(guide, -1)
	if len(blocks) < 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	indent := regexp.MustCompile(`(?m)^(.)`)
	for _, block := range blocks {
		text := string(block[1])
		if !strings.Contains(examples.String(), indent.ReplaceAllString(text, "\t$1")) && !strings.Contains(examples.String(), text) {
			t.Errorf("not in an example:\n%s", text)
		}
	}
}
