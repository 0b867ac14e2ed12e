// Renders Go templates as Ollama does, which uses text/template over .Messages.
// go run render.go < CASES.json: [{"template": ..., "messages": [{"Role": ..., "Content": ...}]}]
// Prints the texts as one JSON list.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

type conversation struct {
	Template string
	Messages []message
}

func main() {
	var cases []conversation
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	texts := make([]string, len(cases))
	for i, one := range cases {
		var text strings.Builder
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		if err := parsed.Execute(&text, map[string]any{"Messages": one.Messages}); err != nil {
			panic(err)
		}
		texts[i] = text.String()
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	if err := out.Encode(texts); err != nil {
		panic(err)
	}
}
