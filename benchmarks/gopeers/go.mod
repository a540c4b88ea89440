// A module of its own, so that who imports the library never hears of its peers.
module github.com/schwimmbad-go/schwimmbad-go/benchmarks/gopeers

go 1.26.0

replace github.com/schwimmbad-go/schwimmbad-go => ../..

require (
	github.com/alitto/pond/v2 v2.7.1
	github.com/panjf2000/ants/v2 v2.12.1
	github.com/schwimmbad-go/schwimmbad-go v0.0.0-00010101000000-000000000000
	github.com/sourcegraph/conc v0.3.0
	golang.org/x/sync v0.25.0
)

require (
	github.com/sbromberger/gompi v0.2.0 // indirect
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
	go.uber.org/atomic v1.7.0 // indirect
	go.uber.org/multierr v1.9.0 // indirect
)
