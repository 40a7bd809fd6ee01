package main

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apiserver/pkg/server"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
	"sigs.k8s.io/prometheus-adapter/pkg/client"
	"sigs.k8s.io/prometheus-adapter/pkg/config"
	"sigs.k8s.io/prometheus-adapter/pkg/external-provider"
	"sigs.k8s.io/prometheus-adapter/pkg/naming"
)

// newPrometheusAdapter serves external metrics, which an autoscaler reads, out of Prometheus. The adapter's own main
// (0.12.0) does not build with the libraries of this Kubernetes; what it does with rules and queries is its own here, too.
func newPrometheusAdapter() *cobra.Command {
	adapter := &cmd.AdapterBase{Name: "prometheus-adapter"}
	prometheus := adapter.Flags().String("prometheus-url", "", "where Prometheus is")
	rules := adapter.Flags().String("config", "", "the file with the rules")
	relist := adapter.Flags().Duration("metrics-relist-interval", 10*time.Minute, "how often series are listed")
	age := adapter.Flags().Duration("metrics-max-age", 10*time.Minute, "how old a listed series may be")
	command := &cobra.Command{Use: "prometheus-adapter", RunE: func(*cobra.Command, []string) error {
		return serve(adapter, *prometheus, *rules, *relist, *age)
	}}
	command.Flags().AddFlagSet(adapter.Flags())
	return command
}

func serve(adapter *cmd.AdapterBase, prometheus, rules string, relist, age time.Duration) error {
	ctx := server.SetupSignalContext()
	known, err := config.FromFile(rules)
	if err != nil {
		return err
	}
	base, err := url.Parse(prometheus)
	if err != nil {
		return err
	}
	mapper, err := adapter.RESTMapper()
	if err != nil {
		return err
	}
	namers, err := naming.NamersFromConfig(known.ExternalRules, mapper)
	if err != nil {
		return err
	}
	questions := client.NewClientForAPI(patient{client.NewGenericAPIClient(http.DefaultClient, base, nil)}, http.MethodGet)
	provider, lister := provider.NewExternalPrometheusProvider(questions, namers, relist, age)
	lister.RunUntil(ctx.Done())
	adapter.WithExternalMetrics(provider)
	return adapter.Run(ctx)
}

// patient leaves out the timeout that the adapter computes with the wrong sign, and that Prometheus then refuses.
type patient struct{ client.GenericAPIClient }

func (p patient) Do(ctx context.Context, verb, endpoint string, query url.Values) (client.APIResponse, error) {
	query.Del("timeout")
	return p.GenericAPIClient.Do(ctx, verb, endpoint, query)
}
