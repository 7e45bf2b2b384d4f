"""Glossary of axes. Every annotation and every einsum in foveation_jax uses these letters.

    N  images                      Y  rows                        X  columns
    C  colour channels (3: R G B)  R  pooling regions             V  runs (seeds)
    E  rings (eccentricity)        T  wedges (polar angle)        O  orientations of a band
    K  entries of a covariance     P  samples of an interval      L  classes

Images are [N, Y, X, C], colours in [0, 1], row 0 on top. Positions are (y, x) in pixels, the
centre of the first pixel at (0, 0). Visual angles are in degrees. Region 0 is the fovea; region
1 + t * E + e is ring e of wedge t (wedge-major), rings from inside out.
"""
