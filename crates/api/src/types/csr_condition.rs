//! `certificates.v1.CertificateSigningRequestCondition`: a condition of a signing request.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("certificates.v1.CertificateSigningRequestCondition") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("status", "True");
}
