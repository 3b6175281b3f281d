//! What priority and fairness shows of itself: metrics under upstream's names and the dumps for people.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use client::metrics::{Unit, escape, head, histogram, sample, single};
use store::metrics::Histogram;

use super::Fairness;
use super::flow::{Flow, Refusal};
use super::level::LevelView;

type Read = fn(&LevelView) -> f64;

/// A number of every level.
const LEVELS: [(&str, &str, Read); 10] = [
    ("nominal_limit_seats", "Seats of a level by its configuration.", |level| f64::from(level.limits.nominal)),
    ("lower_limit_seats", "Seats of a level that others cannot borrow.", |level| f64::from(level.limits.lower)),
    ("upper_limit_seats", "Seats of a level with all that it may borrow.", |level| f64::from(level.limits.upper)),
    ("current_limit_seats", "Seats of a level now.", |level| f64::from(level.current)),
    ("target_seats", "Seats that a level should have.", |level| {
        super::Claim { limits: level.limits, demand: level.demand, exempt: level.settings.exempt }.target()
    }),
    ("demand_seats_high_watermark", "Most seats that were wanted in the last period.", |level| level.demand.seen.max),
    ("demand_seats_average", "Seats that were wanted on average in the last period.", |level| level.demand.seen.average),
    ("demand_seats_stdev", "Standard deviation of the seats that were wanted in the last period.", |level| level.demand.seen.deviation),
    ("demand_seats_smoothed", "Seats that are wanted, smoothed.", |level| level.demand.smoothed),
    ("current_r", "Virtual time of the queues of a level.", |level| level.virtual_now),
];

/// A gauge of every flow: its name, its help, and where it is read.
const GAUGES: [(&str, &str, fn(&Flow) -> i64); 4] = [
    ("current_executing_requests", "Requests that run.", |flow| flow.running[0].load(Ordering::Relaxed)),
    ("current_executing_seats", "Seats of requests that run.", |flow| flow.running[1].load(Ordering::Relaxed)),
    ("current_inqueue_requests", "Requests that wait.", |flow| flow.waiting[0].load(Ordering::Relaxed)),
    ("current_inqueue_seats", "Seats of requests that wait.", |flow| flow.waiting[1].load(Ordering::Relaxed)),
];

/// A histogram of numbers of every flow.
const SIZES: [(&str, &str, fn(&Flow) -> &Histogram); 2] = [
    ("request_queue_length_after_enqueue", "Length of the queue that a request was put in.", |flow| &flow.queue_length),
    ("work_estimated_seats", "Seats of requests by estimate.", |flow| &flow.width),
];

impl Fairness {
    /// Everything in the text format of Prometheus.
    pub fn render(&self, out: &mut String) {
        let plan = self.plan.load_full();
        let levels: Vec<(&String, LevelView)> = plan.levels.iter().map(|(name, level)| (name, level.view())).collect();
        for (name, help, read) in LEVELS {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "gauge", help);
            for (level, view) in &levels {
                sample(out, &name, &format!("priority_level=\"{}\"", escape(level)), read(view));
            }
        }
        let fraction = f64::from_bits(self.fraction.load(Ordering::Relaxed));
        single(out, "apiserver_flowcontrol_seat_fair_frac", "gauge", "Fraction of its target that each level has.", fraction);
        let flows: Vec<Arc<Flow>> = self.flows.lock().values().cloned().collect();
        let labels = |flow: &Flow| format!("flow_schema=\"{}\",priority_level=\"{}\"", escape(&flow.schema), escape(&flow.level));
        head(out, "apiserver_flowcontrol_dispatched_requests_total", "counter", "Requests that were let in.");
        for flow in &flows {
            sample(out, "apiserver_flowcontrol_dispatched_requests_total", &labels(flow), flow.dispatched.load(Ordering::Relaxed));
        }
        head(out, "apiserver_flowcontrol_rejected_requests_total", "counter", "Requests that were refused.");
        for flow in &flows {
            for why in Refusal::ALL {
                let count = flow.refused[why as usize].load(Ordering::Relaxed);
                if count > 0 {
                    let labels = format!("{},reason=\"{}\"", labels(flow), why.text());
                    sample(out, "apiserver_flowcontrol_rejected_requests_total", &labels, count);
                }
            }
        }
        for (name, help, read) in GAUGES {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "gauge", help);
            for flow in &flows {
                sample(out, &name, &labels(flow), read(flow));
            }
        }
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        head(out, name, "histogram", "Time in a queue.");
        for flow in &flows {
            histogram(out, name, &format!("execute=\"true\",{}", labels(flow)), &flow.waited, Unit::Micros);
            histogram(out, name, &format!("execute=\"false\",{}", labels(flow)), &flow.waited_in_vain, Unit::Micros);
        }
        let name = "apiserver_flowcontrol_request_execution_seconds";
        head(out, name, "histogram", "Time with a seat.");
        for flow in &flows {
            for (ran, kind) in flow.ran.iter().zip(["regular", "watch"]) {
                histogram(out, name, &format!("{},type=\"{kind}\"", labels(flow)), ran, Unit::Micros);
            }
        }
        for (name, help, read) in SIZES {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "histogram", help);
            for flow in &flows {
                histogram(out, &name, &labels(flow), read(flow), Unit::Count);
            }
        }
    }

    /// `/debug/api_priority_and_fairness/...`; `None` for a dump that does not exist.
    pub fn dump(&self, what: &str) -> Option<String> {
        let rows = match what {
            "dump_priority_levels" => self.levels(),
            "dump_queues" => self.queues(),
            "dump_requests" => self.requests(),
            _ => return None,
        };
        Some(table(&rows))
    }

    fn levels(&self) -> Vec<Vec<String>> {
        let mut rows = vec![words(
            "PriorityLevelName ActiveQueues IsIdle IsQuiescing WaitingRequests ExecutingRequests DispatchedRequests RejectedRequests TimedoutRequests CancelledRequests",
        )];
        for (name, level) in &self.plan.load_full().levels {
            let view = level.view();
            let active = view.queues.iter().filter(|queue| queue.waiting > 0 || queue.running > 0).count();
            let counts = view.counts;
            let mut row = vec![name.clone(), active.to_string()];
            row.extend([view.waiting == 0 && view.seats == 0, view.quiescing].map(|is| is.to_string()));
            let numbers = [view.waiting as u64, view.running.into(), counts.dispatched, counts.refused, counts.timed_out, counts.cancelled];
            row.extend(numbers.map(|number| number.to_string()));
            rows.push(row);
        }
        rows
    }

    fn queues(&self) -> Vec<Vec<String>> {
        let mut rows = vec![words(
            "PriorityLevelName Index PendingRequests ExecutingRequests SeatsInUse NextDispatchR InitialSeatsSum MaxSeatsSum TotalWorkSum",
        )];
        for (name, level) in &self.plan.load_full().levels {
            for (index, queue) in level.view().queues.iter().enumerate() {
                rows.push(vec![
                    name.clone(),
                    index.to_string(),
                    queue.waiting.to_string(),
                    queue.running.to_string(),
                    queue.running_seats.to_string(),
                    format!("{:.8}ss", queue.next),
                    queue.waiting_seats.to_string(),
                    queue.waiting_seats.to_string(),
                    format!("{:.8}ss", queue.waiting_seats as f64 * 0.003),
                ]);
            }
        }
        rows
    }

    fn requests(&self) -> Vec<Vec<String>> {
        let mut rows = vec![words(
            "PriorityLevelName FlowSchemaName QueueIndex RequestIndexInQueue FlowDistingsher ArriveTime InitialSeats FinalSeats AdditionalLatency StartTime",
        )];
        for (name, level) in &self.plan.load_full().levels {
            for request in level.waiting() {
                rows.push(vec![
                    name.clone(),
                    request.schema,
                    request.queue.to_string(),
                    request.place.to_string(),
                    request.distinguisher,
                    time(request.arrived),
                    request.seats.to_string(),
                    "0".into(),
                    "0s".into(),
                    String::new(),
                ]);
            }
        }
        rows
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default()
}

/// Cells with commas, in columns.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let last = column + 1 == row.len();
            let cell = if last { cell.clone() } else { format!("{cell},") };
            let padding = if last { 0 } else { widths[column] + 2 };
            let _ = write!(out, "{cell:padding$}");
        }
        out.push('\n');
    }
    out
}
