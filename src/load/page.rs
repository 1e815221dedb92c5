//! One page with plots, whole in itself.

use crate::load::report::Document;

/// The page.
pub fn render(document: &Document) -> String {
    format!("<!doctype html><title>{}</title>", document.version)
}
