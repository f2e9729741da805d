// Go's gomemcache. Usage: gomemcache VARIANT HOST:PORT,...
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"
)

// Values are bytes; the program chooses their flags.
var values = map[string][]byte{
	"text":    []byte("text"),
	"unicode": []byte("clé ключ"),
	"empty":   {},
	"long":    bytes.Repeat([]byte("abcdefghij"), 2000),
	"huge":    bytes.Repeat([]byte("0123456789abcdef"), 10000),
	"bytes":   {255, 0},
}

func main() {
	client := memcache.New(strings.Split(os.Args[2], ",")...)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Split(lines.Text(), " ")
		if words[0] == "get" {
			item, err := client.Get(words[1])
			if err != nil {
				fmt.Println("missing ")
			} else {
				fmt.Printf("string %x\n", item.Value)
			}
			continue
		}
		value, known := values[words[2]]
		if !known {
			fmt.Println("unknown")
		} else if err := client.Set(&memcache.Item{Key: words[1], Value: value}); err != nil {
			fmt.Println("failed")
		} else {
			fmt.Println("ok")
		}
	}
	fmt.Println("version ")
}
