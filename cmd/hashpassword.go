package cmd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// bcryptCost makes one guess cost about a quarter of a second on one core of 2026.
const bcryptCost = 12

type hashPasswordCommand struct{}

// Run hashes the first line of standard input.
func (hashPasswordCommand) Run(env *environment) error {
	line, err := bufio.NewReader(env.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" {
		return &usageError{errors.New("gatehouse: give the password on standard input")}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
	if err != nil {
		return &usageError{fmt.Errorf("gatehouse: %w", err)}
	}
	fmt.Fprintln(env.out, string(hash))
	return nil
}
