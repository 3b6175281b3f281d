// Answers /healthz with what a CSI driver says of itself, with the flags that the suite's manifests give to the sidecar of
// this name. It stands in for the published sidecar, which not every module proxy serves.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	flag.String("v", "", "accepted and not used")
	address := flag.String("csi-address", "/run/csi/socket", "socket of the driver")
	port := flag.Int("health-port", 9808, "port of /healthz")
	timeout := flag.Duration("probe-timeout", time.Second, "how long the driver may take to answer")
	flag.Parse()

	driver, err := grpc.NewClient("unix://"+*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/healthz", func(answer http.ResponseWriter, request *http.Request) {
		call, cancel := context.WithTimeout(request.Context(), *timeout)
		defer cancel()
		state, err := csi.NewIdentityClient(driver).Probe(call, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		switch {
		case err != nil:
			http.Error(answer, err.Error(), http.StatusInternalServerError)
		case state.Ready != nil && !state.Ready.Value:
			http.Error(answer, "the driver is not ready", http.StatusInternalServerError)
		default:
			fmt.Fprint(answer, "ok")
		}
	})
	log.Fatal(http.ListenAndServe(fmt.Sprintf(":%d", *port), nil))
}
