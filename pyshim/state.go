package pyshim

import "github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/cache"

// CachePlace is a directory where the cache may be, as far as can be seen without writing there.
type CachePlace struct {
	Dir    string
	Source string // what it is named after: "$SCHWIMMBAD_GO_CACHE", "$XDG_CACHE_HOME", "home", "temp"
	Free   int64  // bytes; negative: unknown
	NoExec bool   // no program can be started from there
	Err    error  // why nothing can be kept there
}

// CachePlaces lists them, best first.
func CachePlaces() []CachePlace {
	var found []CachePlace
	for _, place := range cache.Places() {
		found = append(found, CachePlace{place.Dir, place.Source, place.Free(), place.NoExec(), place.Writable()})
	}
	return found
}
