// Careless asks for worker processes, but does not call pools.Main: the tests see that it is told so, and does not start itself for ever.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

func main() {
	_, err := pools.NewMultiPool(2, pools.Processes())
	if !errors.Is(err, pools.ErrUnavailable) {
		os.Exit(3)
	}
	fmt.Println(err)
}
