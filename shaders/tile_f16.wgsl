// Tiles of f16: half the traffic of workgroup memory, which bounds the product. Sums stay f32, so that no partial sum overflows.

alias Element = f16;
alias Quad = vec4<f16>;
