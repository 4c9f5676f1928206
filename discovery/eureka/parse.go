package eureka

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
)

// applications are what we read of an answer.
type applications struct {
	hash string
	apps []application
}

type application struct {
	Name      string         `json:"name"`
	Instances some[instance] `json:"instance"`
}

type instance struct {
	ID         string   `json:"instanceId"`
	Host       string   `json:"hostName"`
	Address    string   `json:"ipAddr"`
	Status     string   `json:"status"`
	Action     string   `json:"actionType"`
	Port       port     `json:"port"`
	SecurePort port     `json:"securePort"`
	Metadata   metadata `json:"metadata"`
	DataCenter struct {
		Metadata metadata `json:"metadata"`
	} `json:"dataCenterInfo"`
}

// some is a list; old servers write a list of one as the one.
type some[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (s *some[T]) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var one T
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*s = some[T]{one}
		return nil
	}
	return json.Unmarshal(b, (*[]T)(s))
}

// port is {"$": 8080, "@enabled": "true"}, with or without quotes.
type port struct {
	number  int
	enabled bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *port) UnmarshalJSON(b []byte) error {
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	number, err := strconv.Atoi(fmt.Sprint(fields["$"]))
	p.number, p.enabled = number, err == nil && fmt.Sprint(fields["@enabled"]) != "false"
	return nil
}

// metadata are texts; whatever is no text is left out.
type metadata map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *metadata) UnmarshalJSON(b []byte) error {
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	*m = metadata{}
	for key, value := range fields {
		if text, ok := value.(string); ok {
			(*m)[key] = text
		}
	}
	return nil
}

// parse reads the whole registry or the changes.
func parse(r io.Reader) (*applications, error) {
	var answer struct {
		Applications *struct {
			Hash         string            `json:"apps__hashcode"`
			Applications some[application] `json:"application"`
		} `json:"applications"`
	}
	d := json.NewDecoder(r)
	if err := d.Decode(&answer); err != nil {
		return nil, remote.Unreadable(err)
	}
	if err := remote.End(d); err != nil {
		return nil, err
	}
	if answer.Applications == nil {
		return nil, fmt.Errorf("the answer has no applications")
	}
	return &applications{hash: answer.Applications.Hash, apps: answer.Applications.Applications}, nil
}
