//! A template of any text, rendered with nothing known of the request.
#![no_main]

struct Nothing;

impl template::Scope for Nothing {}

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(template) = template::Template::compile(text, &template::Variable::ALL) {
        let _ = template.render(&Nothing);
    }
});
