//! Templates in their place.

use template::{Template, Variable};

use super::Checker;
use crate::names::did_you_mean;
use crate::node::At;
use crate::units::TemplateText;

/// What a template may use that is rendered before there is a record.
pub(super) const OF_REQUEST: [Variable; 6] =
    [Variable::Params, Variable::Query, Variable::Headers, Variable::Guard, Variable::IdempotencyKey, Variable::CorrelationId];
/// What a template may use that says which request it is: neither of what is made from that.
pub(super) const OF_IDENTITY: [Variable; 4] = [Variable::Params, Variable::Query, Variable::Headers, Variable::Guard];
/// What a template may use that is rendered for the answer.
pub(super) const OF_RECORD: [Variable; 7] = Variable::ALL;

impl Checker<'_> {
    /// Compiles the template at `at`, in a route whose path has `params` (`None`: the path itself is at fault).
    pub(super) fn template(
        &mut self,
        at: &At,
        text: &TemplateText,
        allowed: &[Variable],
        params: Option<&[String]>,
    ) -> Option<Template> {
        let template = match Template::compile(&text.0, allowed) {
            Ok(template) => template,
            Err(error) => {
                self.template_fault(at, &text.0, error);
                return None;
            }
        };
        for name in params.map(|params| template.params().filter(|name| !params.iter().any(|p| p == name))).into_iter().flatten()
        {
            if self.is_hidden(at) {
                self.fault(at, "the path does not have all parameters of this template", None);
                continue;
            }
            let known = params.unwrap_or_default().iter().map(String::as_str);
            let help = did_you_mean(name, "its parameters", known);
            let help = help.unwrap_or_else(|| format!("write {{{name}}} into the path of the match"));
            self.fault(at, format!("the path has no parameter '{name}'"), help);
        }
        Some(template)
    }

    /// Reports the fault at the very character, if the text stands in the file as it is.
    pub(super) fn template_fault(&mut self, at: &At, text: &str, error: template::CompileError) {
        let Some(node) = self.tree.get(at) else { return };
        let Some(scalar) = node.scalar() else { return };
        if scalar.written.is_some() {
            // The message may quote what came out of the environment.
            self.fault(at, "with the given values filled in, this is no valid template", None);
            return;
        }
        let mut span = node.span;
        let quotes = usize::from(!scalar.plain);
        if span.width == text.chars().count() + 2 * quotes && span.line == span.line_end {
            let before = text.get(..error.at).map_or(0, |before| before.chars().count());
            span.column += (before + quotes).min(span.width - 1);
            span.width = 1;
        }
        self.report.add(span, error.message, error.help);
    }
}
