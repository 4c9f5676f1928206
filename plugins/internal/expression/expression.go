// Package expression compiles the expressions (CEL, the Common Expression
// Language) that plugins decide by, and is the vocabulary they have in common.
package expression

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// variables are what expressions can see. Dotted names are variables of their
// own, so that a misspelt one is found when the config is read, and only those
// an expression really uses are ever made.
var variables = []struct {
	name string
	kind *cel.Type
}{
	{"request.method", cel.StringType},
	{"request.path", cel.StringType},
	{"request.host", cel.StringType},
	{"request.scheme", cel.StringType},
	{"request.client_ip", cel.StringType},
	{"request.headers", cel.MapType(cel.StringType, cel.DynType)},
	{"request.query", cel.MapType(cel.StringType, cel.DynType)},
	{"tls.version", cel.StringType},
	{"tls.server_name", cel.StringType},
	{"tls.client.subject", cel.StringType},
	{"tls.client.spiffe_id", cel.StringType},
	{"tls.client.fingerprint", cel.StringType},
	{"consumer.name", cel.StringType},
	{"consumer.groups", cel.ListType(cel.StringType)},
	{"claims", cel.MapType(cel.StringType, cel.DynType)},
	{"scopes", cel.ListType(cel.StringType)},
	{"subject", cel.StringType},
	{"route", cel.StringType},
}

// environment is the same for every expression and never changes.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.CustomTypeAdapter(adapter{types.DefaultTypeAdapter}),
		cel.ParserExpressionSizeLimit(16 << 10),
		cel.ParserRecursionLimit(64),
		cel.Function("in_cidr", cel.MemberOverload("string_in_cidr_string",
			[]*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(inCIDR))),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	return cel.NewEnv(options...)
})

// Bool checks an expression that is to be true or false, and makes a program of
// it, whose every evaluation may cost so much, in CEL's own units.
func Bool(expression string, cost uint64) (cel.Program, error) {
	return compile(expression, cost, "must be true or false", cel.BoolType)
}

// Number is Bool for an expression that is to be a whole number or not.
func Number(expression string, cost uint64) (cel.Program, error) {
	return compile(expression, cost, "must be a number", cel.IntType, cel.UintType, cel.DoubleType)
}

func compile(expression string, cost uint64, want string, kinds ...*cel.Type) (cel.Program, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, describe(err, issues)
	}
	if t := ast.OutputType(); t != cel.DynType && !slices.Contains(kinds, t) {
		return nil, fmt.Errorf("%s, but is a %s", want, t)
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(cost))
	if err != nil {
		return nil, fmt.Errorf("does not compile: %w", err)
	}
	return program, nil
}

// describe makes one line of the first compile errors.
func describe(err error, issues *cel.Issues) error {
	var lines []string
	for i, e := range issues.Errors() {
		if i == 3 {
			break
		}
		lines = append(lines, fmt.Sprintf("column %d: %s", e.Location.Column()+1, strings.ReplaceAll(e.Message, "\n", " ")))
	}
	text := strings.Join(lines, "; ")
	if text == "" {
		return err
	}
	if strings.Contains(text, "undeclared reference") {
		names := make([]string, len(variables))
		for i, v := range variables {
			names[i] = v.name
		}
		text += "; known: " + strings.Join(names, ", ")
	}
	return errors.New(text)
}

// inCIDR is ADDRESS.in_cidr(NETWORK); what is neither is an error, and denies.
func inCIDR(address, network ref.Val) ref.Val {
	a, ok1 := address.Value().(string)
	n, ok2 := network.Value().(string)
	if !ok1 || !ok2 {
		return types.MaybeNoSuchOverloadErr(address)
	}
	addr, err := netip.ParseAddr(a)
	if err != nil {
		return types.NewErr("in_cidr: %v", err)
	}
	prefix, err := netip.ParsePrefix(n)
	if err != nil {
		return types.NewErr("in_cidr: %v", err)
	}
	return types.Bool(prefix.Contains(addr.Unmap()))
}
