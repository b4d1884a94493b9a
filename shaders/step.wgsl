// What changes from step to step. Prepended to the verbs that look at it.

struct Step {
    start: u32, // position of row 0
    rows: u32,
    first: u32, // row of x that is row 0 of the logits
    logit_rows: u32,
    uniform_value: f32, // decides where there is chance
}

@group(0) @binding(0) var<uniform> step: Step;
