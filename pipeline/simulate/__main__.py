from pipeline.simulate import app

app(prog_name="brigade simulate")
