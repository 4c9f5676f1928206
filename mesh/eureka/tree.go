package eureka

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of what a client may send; an instance has some fifty elements, five
// deep.
const (
	maxDepth    = 16
	maxElements = 4096
)

// element is what JSON and XML have in common here: an object's "@name" is an
// attribute, its "$" the text.
type element struct {
	name  string
	attrs map[string]string
	text  string
	kids  []*element
}

// kid is the last one of a name, as Jackson takes it; nil: there is none.
func (e *element) kid(name string) *element {
	if e == nil {
		return nil
	}
	for i := len(e.kids) - 1; i >= 0; i-- {
		if e.kids[i].name == name {
			return e.kids[i]
		}
	}
	return nil
}

// parser counts what has been read.
type parser struct{ elements, depth int }

func (p *parser) enter() error {
	if p.elements++; p.elements > maxElements {
		return fmt.Errorf("has more than %d elements", maxElements)
	}
	if p.depth++; p.depth > maxDepth {
		return fmt.Errorf("is more than %d levels deep", maxDepth)
	}
	return nil
}

// parseXML reads a document and returns its root. Document types, and so
// entities, are refused.
func parseXML(body []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	p := &parser{}
	var stack []*element
	var texts [][]byte // of each of them
	var root *element
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && root != nil && len(stack) == 0 {
			return root, nil
		}
		if err != nil {
			return nil, fmt.Errorf("is no XML: %w", err)
		}
		switch t := t.(type) {
		case xml.Directive:
			return nil, errors.New("has a document type, which is not accepted")
		case xml.StartElement:
			if err := p.enter(); err != nil {
				return nil, err
			}
			e := &element{name: t.Name.Local}
			for _, a := range t.Attr {
				e.setAttr(a.Name.Local, a.Value)
			}
			switch {
			case len(stack) > 0:
				top := stack[len(stack)-1]
				top.kids = append(top.kids, e)
			case root != nil:
				return nil, errors.New("has more than one root")
			default:
				root = e
			}
			stack, texts = append(stack, e), append(texts, nil)
		case xml.EndElement:
			p.depth--
			last := len(stack) - 1
			stack[last].text = string(bytes.TrimSpace(texts[last]))
			stack, texts = stack[:last], texts[:last]
		case xml.CharData:
			if len(stack) > 0 {
				texts[len(texts)-1] = append(texts[len(texts)-1], t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, errors.New("has text outside of its root")
			}
		}
	}
}

func (e *element) setAttr(name, value string) {
	if e.attrs == nil {
		e.attrs = map[string]string{}
	}
	e.attrs[name] = value
}

// parseJSON reads an object with one member and returns that.
func parseJSON(body []byte) (*element, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	root := &element{}
	p := &parser{}
	if err := p.value(d, root); err != nil {
		return nil, fmt.Errorf("is no JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("is no JSON: there is more behind it")
	}
	if len(root.kids) != 1 {
		return nil, fmt.Errorf("must be an object with one member, has %d", len(root.kids))
	}
	return root.kids[0], nil
}

// value reads the next value into e.
func (p *parser) value(d *json.Decoder, e *element) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if err := p.enter(); err != nil {
		return err
	}
	defer func() { p.depth-- }()
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return p.object(d, e)
		}
		return p.array(d, e)
	case nil:
	default:
		e.text = fmt.Sprint(t)
	}
	return nil
}

func (p *parser) object(d *json.Decoder, e *element) error {
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		kid := &element{name: key}
		if err := p.value(d, kid); err != nil {
			return err
		}
		name, attribute := strings.CutPrefix(key, "@")
		switch {
		case attribute && len(kid.kids) == 0:
			e.setAttr(name, kid.text)
		case key == "$" && len(kid.kids) == 0:
			e.text = kid.text
		default:
			e.kids = append(e.kids, kid)
		}
	}
	_, err := d.Token() // the end
	return err
}

// array takes the only element of an array for the value itself, as some
// clients write it; others are no part of an instance.
func (p *parser) array(d *json.Decoder, e *element) error {
	n := 0
	for d.More() {
		if n++; n > 1 {
			return errors.New("has a list where one value is expected")
		}
		if err := p.value(d, e); err != nil {
			return err
		}
	}
	_, err := d.Token() // the end
	return err
}
