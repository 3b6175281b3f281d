// Announces a CSI driver to the kubelet, with the flags that the suite's manifests give to the sidecar of this name.
// It stands in for the published sidecar, which not every module proxy serves.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type registrar struct {
	registration.UnimplementedRegistrationServer
	name, endpoint string
	refused        chan string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	log.Printf("the kubelet asks who %s is", r.name)
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: r.name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("registered: %v %s", status.PluginRegistered, status.Error)
	if !status.PluginRegistered {
		r.refused <- status.Error
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	flag.String("v", "", "accepted and not used")
	address := flag.String("csi-address", "/run/csi/socket", "socket of the driver, as this container sees it")
	endpoint := flag.String("kubelet-registration-path", "", "socket of the driver, as the node sees it")
	folder := flag.String("plugin-registration-path", "/registration", "folder in which the kubelet looks for plugins")
	timeout := flag.Duration("timeout", time.Second, "how long one call of the driver may take")
	flag.Parse()

	driver, err := grpc.NewClient("unix://"+*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	// The driver may start later than its registrar.
	var name string
	for name == "" {
		call, cancel := context.WithTimeout(context.Background(), *timeout)
		info, err := csi.NewIdentityClient(driver).GetPluginInfo(call, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
		cancel()
		if err != nil {
			log.Printf("the driver does not answer: %v", err)
			time.Sleep(*timeout / 10)
			continue
		}
		name = info.Name
	}
	driver.Close()

	socket := filepath.Join(*folder, name+"-reg.sock")
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	plugin := &registrar{name: name, endpoint: *endpoint, refused: make(chan string, 1)}
	registration.RegisterRegistrationServer(server, plugin)
	go server.Serve(listener)
	log.Printf("%s is announced in %s", name, socket)

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	code := 0
	select {
	case reason := <-plugin.refused:
		log.Printf("the kubelet refused the driver: %s", reason)
		code = 1
	case <-ended:
	}
	server.Stop()
	os.Remove(socket)
	os.Exit(code)
}
