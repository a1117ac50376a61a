package api

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/meshca/meshca/rotation"
)

// metrics is a collector that reads the engine's newest status at each scrape, so that no gauge can be
// forgotten when a service goes.
type metrics struct {
	engine    Engine
	storeSize func() int64
}

var (
	service = []string{"service"}

	notAfter = prometheus.NewDesc("meshca_certificate_not_after_timestamp_seconds",
		"When the service's certificate expires.", service, nil)
	notBefore = prometheus.NewDesc("meshca_certificate_not_before_timestamp_seconds",
		"When the service's certificate begins.", service, nil)
	renewal = prometheus.NewDesc("meshca_certificate_renewal_timestamp_seconds",
		"When the service's certificate is due for renewal.", service, nil)
	kept = prometheus.NewDesc("meshca_service_kept",
		"1 if the service has exactly what it should have, 0 if something stands in the way.", service, nil)
	issued = prometheus.NewDesc("meshca_issued_total",
		"Certificates issued for the service since the start.", service, nil)
	healed = prometheus.NewDesc("meshca_healed_total",
		"Foreign changes put right since the start.", service, nil)
	foreign = prometheus.NewDesc("meshca_foreign_writes",
		"Foreign changes seen within the last ten minutes; from 3 on somebody is at work.", service, nil)
	caNotAfter = prometheus.NewDesc("meshca_ca_not_after_timestamp_seconds",
		"When a root or the issuing CA expires.", []string{"role", "name"}, nil)
	crlThisUpdate = prometheus.NewDesc("meshca_crl_this_update_timestamp_seconds",
		"When the CRL in force was made, backdated.", []string{"role", "name"}, nil)
	crlNextUpdate = prometheus.NewDesc("meshca_crl_next_update_timestamp_seconds",
		"When verifiers no longer accept the CRL in force.", []string{"role", "name"}, nil)
	crlOverdue = prometheus.NewDesc("meshca_crl_overdue",
		"1 if there should long have been a newer CRL.", []string{"role", "name"}, nil)
	epoch = prometheus.NewDesc("meshca_epoch",
		"Raised by every change of the trust bundle or the signing root.", nil, nil)
	lastSweep = prometheus.NewDesc("meshca_sweep_last_timestamp_seconds",
		"When all services were last read and compared.", nil, nil)
	lastRun = prometheus.NewDesc("meshca_rotation_last_run_timestamp_seconds",
		"When the schedule's job last ran.", nil, nil)
	storeSize = prometheus.NewDesc("meshca_store_size_bytes", "Size of the store.", nil, nil)
)

// NewRegistry makes a registry with the engine's metrics, the process's, and the program's version.
func NewRegistry(e Engine, size func() int64, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meshca_build_info", Help: "1, labelled with the program's version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	r.MustRegister(&metrics{engine: e, storeSize: size}, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe implements prometheus.Collector. It sends nothing: what is collected depends on the catalogue.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := m.engine.Status()
	if s.Passed.IsZero() {
		return // nothing is known yet
	}
	gauge(epoch, float64(s.Epoch))
	gauge(lastSweep, float64(s.Sweep.At.Unix()))
	gauge(lastRun, float64(s.LastRun.Unix()))
	gauge(storeSize, float64(m.storeSize()))
	for _, root := range s.Roots {
		gauge(caNotAfter, float64(root.NotAfter.Unix()), "root", root.Name)
	}
	gauge(caNotAfter, float64(s.Issuing.NotAfter.Unix()), "issuing", s.Issuing.Name)
	for _, c := range s.CRLs {
		role := "issuing"
		if c.Root {
			role = "root"
		}
		gauge(crlThisUpdate, float64(c.ThisUpdate.Unix()), role, c.Issuer)
		gauge(crlNextUpdate, float64(c.NextUpdate.Unix()), role, c.Issuer)
		gauge(crlOverdue, oneIf(c.Overdue), role, c.Issuer)
	}
	for _, v := range s.Services {
		if v.Serial != "" {
			gauge(notAfter, float64(v.NotAfter.Unix()), v.Name)
			gauge(notBefore, float64(v.NotBefore.Unix()), v.Name)
			gauge(renewal, float64(v.Due.Unix()), v.Name)
		}
		gauge(kept, oneIf(v.State == rotation.StateKept || v.State == rotation.StateAlarm || v.State == rotation.StateTaking), v.Name)
		counter(issued, v.Issued, v.Name)
		counter(healed, v.Healed, v.Name)
		gauge(foreign, float64(v.ForeignWrites), v.Name)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
