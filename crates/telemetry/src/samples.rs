//! Values that are read when metrics are scraped.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Collects gauges and counters for one scrape. Several collectors may add to one family.
#[derive(Debug, Default)]
pub struct Samples {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    counter: bool,
    rows: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Samples {
    /// Adds the current value of a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.add(name, help, false, labels, value);
    }

    /// Adds the current value of a counter; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.add(name, help, true, labels, value);
    }

    fn add(&mut self, name: &'static str, help: &'static str, counter: bool, labels: &[(&'static str, &str)], value: f64) {
        let family = self.families.entry(name).or_insert_with(|| Family { help, counter, rows: Vec::new() });
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_string())).collect();
        family.rows.push((labels, value));
    }

    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, family) in &self.families {
            let (name, kind) = match family.counter {
                // The encoder adds the suffix again.
                true => (name.strip_suffix("_total").unwrap_or(name), MetricType::Counter),
                false => (*name, MetricType::Gauge),
            };
            let mut encoder = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in &family.rows {
                let mut row = encoder.encode_family(labels)?;
                match family.counter {
                    true => row.encode_counter::<NoLabelSet, f64, f64>(value, None)?,
                    false => row.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}
